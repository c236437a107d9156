"""The accuracy of a classifier, and its negative log-likelihood.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from lessen.core.errors import DataError, ShapeError
from lessen.core.estimate import Estimate
from lessen.functional.intervals import mean_with_interval, wilson


def accuracy(logits_NC: Tensor, labels_N: Tensor) -> Estimate:
    """Share of examples whose largest logit is the label's, in percent, with its Wilson interval.

    Args:
        logits_NC: Shape (N, C).
        labels_N: Shape (N,), integers in [0, C).

    Raises:
        ShapeError: the two do not fit together.
        DataError: a label is outside [0, C), or there are no examples.
    """
    check_labels(logits_NC, labels_N)
    right = int((decide(logits_NC) == labels_N).sum())
    return percent(wilson(right, len(labels_N)))


def nll(logits_NC: Tensor, labels_N: Tensor) -> Estimate:
    """Mean negative log-likelihood of the labels, in nats, plus or minus 1.96 standard errors.

    Shapes and errors as of `accuracy`.
    """
    check_labels(logits_NC, labels_N)
    return mean_with_interval(cross_entropy(logits_NC.double(), labels_N, reduction="none"))


def decide(logits_NC: Tensor) -> Tensor:
    """The class of the largest logit, shape (N,); -1 where a logit is not a number and nothing was decided."""
    return logits_NC.argmax(1).masked_fill(logits_NC.isnan().any(1), -1)


def check_labels(logits_NC: Tensor, labels_N: Tensor) -> None:
    """Raise unless these are N rows of logits and N class indices."""
    if logits_NC.ndim != 2 or labels_N.shape != logits_NC.shape[:1]:
        raise ShapeError(
            f"Got logits of shape {tuple(logits_NC.shape)} and labels of shape {tuple(labels_N.shape)}; "
            "expected (N, C) and (N,)."
        )
    if labels_N.dtype == torch.bool or labels_N.is_floating_point() or labels_N.is_complex():
        raise DataError(f"Got labels of type {labels_N.dtype}; expected integers, one class index per example.")
    if len(labels_N) == 0:
        raise DataError("There are no examples; expected at least one.")
    low, high, classes = int(labels_N.min()), int(labels_N.max()), logits_NC.shape[1]
    if low < 0 or high >= classes:
        raise DataError(f"Labels run from {low} to {high}, but the network has {classes} classes, numbered from 0.")


def percent(share: Estimate) -> Estimate:
    """A share as a percentage."""
    low = None if share.low is None else 100 * share.low
    high = None if share.high is None else 100 * share.high
    return Estimate(100 * share.value, low, high)
