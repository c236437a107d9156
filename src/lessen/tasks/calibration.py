"""Calibration error: how far a classifier's confidence is from how often it is right.

Guo, Pleiss, Sun & Weinberger, On Calibration of Modern Neural Networks, ICML 2017, arXiv:1706.04599, section 2.
The binned estimate is never below zero and so lies above the truth for a well calibrated network and few examples;
compare networks on the same examples only.

Shapes: N examples, C classes, B bins.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from lessen.core.estimate import Estimate
from lessen.functional.intervals import bootstrap
from lessen.tasks.classification import check_labels, percent

BINS = 15


def calibration_error(
    logits_NC: Tensor, labels_N: Tensor, *, bins: int = BINS, draws: int = 200, seed: int = 0
) -> Estimate:
    """Expected calibration error of the top class, in percent, with a bootstrap interval.

    Confidences fall into bins of equal width, (0, 1/B], (1/B, 2/B], ...; the gaps between mean confidence and accuracy
    are averaged with the bins' shares of the examples as weights. NaN where a logit is: there is no confidence then.

    Args:
        logits_NC: Shape (N, C).
        labels_N: Shape (N,), integers in [0, C).
        bins: How many bins, B.
        draws: How often the examples are resampled for the interval.
        seed: Of the resampling.

    Raises:
        ShapeError: the two do not fit together.
        DataError: a label is outside [0, C), or there are no examples.
    """
    check_labels(logits_NC, labels_N)
    confidence_N, guess_N = logits_NC.double().softmax(1).max(1)
    return calibration_of(confidence_N, guess_N == labels_N, bins=bins, draws=draws, seed=seed)


def calibration_of(
    confidence_N: Tensor, right_N: Tensor, *, bins: int = BINS, draws: int = 200, seed: int = 0
) -> Estimate:
    """The same from the confidence in what was decided, and whether that is right."""
    if bool(confidence_N.isnan().any()):
        return Estimate(math.nan)
    surplus_N = confidence_N.double() - right_N.double()
    bin_N = (confidence_N.double() * bins).ceil().clamp(1, bins).long() - 1
    found = bootstrap(
        lambda index_N: _error(surplus_N[index_N], bin_N[index_N], bins), len(right_N), draws=draws, seed=seed
    )
    return percent(Estimate(found.value, max(0.0, found.low or 0.0), found.high))


def _error(surplus_N: Tensor, bin_N: Tensor, bins: int) -> float:
    # A bin's share times its gap is the sum of its surpluses over N: the counts cancel.
    surplus_B = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_N, surplus_N)
    return float(surplus_B.abs().sum()) / len(bin_N)
