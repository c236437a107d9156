"""Several labels for each example, each right or wrong by itself; and one logit, which is one such label.

Average precision: Everingham et al., The Pascal Visual Object Classes challenge, IJCV 2010, section 4.2, computed at
every recall without interpolation.

Shapes: N examples, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import DataError, ShapeError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows
from lessen.tasks.metrics import mean_metric, ratio, resampled_metric, share_metric


@settings
class MultiLabel:
    """K labels, each true or false by itself: outputs (N, K) are logits, labels (N, K) are 0 or 1, or probabilities."""

    name: ClassVar[str] = "multi_label"
    meaning: ClassVar[Meaning] = Meaning.INDEPENDENT
    class_axis: ClassVar[int] = 1

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Mean average precision, likelihood, F1 (macro and micro), share of right labels and of right examples."""
        return (
            resampled_metric("mean_average_precision", "%", _mean_average_precision, higher_is_better=True, draws=50),
            mean_metric("nll", "nat", lambda rows: rows["nll"], higher_is_better=False),
            resampled_metric("f1", "%", _macro_f1, higher_is_better=True, average="macro", threshold=0.5),
            resampled_metric("f1_micro", "%", _micro_f1, higher_is_better=True, average="micro", threshold=0.5),
            mean_metric("label_accuracy", "%", lambda rows: 100 * rows["right"], higher_is_better=True),
            share_metric("exact_match", lambda rows: rows["right"] == 1),
        )

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError, DataError: they are not logits and labels of several yes-or-no questions.
        """
        if labels.shape != outputs.shape or outputs.ndim != 2:
            raise ShapeError(
                f"The task is multi_label, so outputs and labels of one shape (N, K) were expected, but the network "
                f"returns {tuple(outputs.shape)} and the labels are {tuple(labels.shape)}."
            )
        check_shares(labels, "multi_label")

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, averaged over labels: shape (N,)."""
        return F.binary_cross_entropy_with_logits(outputs, labels.to(outputs.dtype), reduction="none").mean(1)

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """Scores and truth of each label, the loss, and the share of labels that are right."""
        self.check(outputs, labels)
        truth = labels >= 0.5
        return {
            "scores": outputs.float(),
            "truth": truth,
            "nll": self.loss(outputs.double(), labels),
            "right": ((outputs > 0) == truth).double().mean(1),
        }


@settings
class Binary:
    """One logit: above 0 for yes. Outputs (N,), (N, 1), or one a position, (N, ...) or (N, 1, ...); labels 0 or 1.

    Args:
        ignored: The label of positions that do not count.
    """

    ignored: int = -100

    name: ClassVar[str] = "binary"
    meaning: ClassVar[Meaning] = Meaning.INDEPENDENT
    class_axis: ClassVar[int] = 1

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Accuracy, likelihood, F1, average precision (of examples with one label) and IoU (of those with several)."""
        return (
            resampled_metric("accuracy", "%", _accuracy, higher_is_better=True),
            mean_metric("nll", "nat", lambda rows: rows["nll"], higher_is_better=False),
            resampled_metric("f1", "%", _f1_of_counts, higher_is_better=True, threshold=0.5),
            resampled_metric("iou", "%", _iou_of_counts, higher_is_better=True, threshold=0.5),
            resampled_metric("average_precision", "%", _mean_average_precision, higher_is_better=True, draws=50),
        )

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError, DataError: they are not one logit and one yes-or-no label.
        """
        if _squeezed(outputs, labels).shape != _squeezed(labels, outputs).shape:
            raise ShapeError(
                f"The task is binary, so one logit for each label was expected, but the network returns "
                f"{tuple(outputs.shape)} and the labels are {tuple(labels.shape)}."
            )
        check_shares(labels[labels != self.ignored], "binary")

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Binary cross-entropy, averaged over positions that count: shape (N,)."""
        logits, truth = _flat(outputs, labels), _flat(labels, outputs)
        counts = (truth != self.ignored).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits, truth.to(logits.dtype).clamp(0, 1), reduction="none")
        return (each * counts).sum(1) / counts.sum(1).clamp_min(1)

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """Counts of right and wrong positions, the loss, and the score where there is one position."""
        self.check(outputs, labels)
        logits, labels = _flat(outputs, labels), _flat(labels, outputs)
        counts = labels != self.ignored
        truth, said = (labels >= 0.5) & counts, (logits > 0) & counts
        one = logits.shape[1] == 1
        return {
            "both": (said & truth).sum(1),
            "said": said.sum(1),
            "true": truth.sum(1),
            "right": ((said == truth) & counts).sum(1),
            "counted": counts.sum(1),
            "nll": self.loss(logits.double(), labels),
            "scores": logits.float() if one else logits.new_zeros(len(logits), 0).float(),
            "truth": truth if one else truth[:, :0],
        }


def check_shares(labels: Tensor, task: str) -> None:
    """Check that labels are shares: 0, 1, or between.

    Raises:
        DataError: some are not.
    """
    if labels.numel() and not bool(((labels >= 0) & (labels <= 1)).all()):
        raise DataError(
            f"The task is {task}, so labels are 0 or 1 (or between), but these run from {float(labels.min()):g} to "
            f"{float(labels.max()):g}. If they are numbers to predict, use task='regression'; if they are class "
            "numbers, task='single_label'."
        )


def average_precision(scores_N: Tensor, truth_N: Tensor) -> float:
    """The mean precision at each true example, ordered by score; NaN if none is true. Equal scores share their place.

    >>> average_precision(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([True, False, True]))
    0.8333333333333333
    """
    if not bool(truth_N.any()):
        return math.nan
    order = scores_N.argsort(descending=True, stable=True)
    scores, truth = scores_N[order], truth_N[order].double()
    found = truth.cumsum(0)
    last = torch.ones(len(scores), dtype=torch.bool)
    last[:-1] = scores[1:] != scores[:-1]
    recall = (found / found[-1])[last]
    precision = (found / torch.arange(1, len(scores) + 1))[last]
    before = torch.cat([recall.new_zeros(1), recall[:-1]])
    return float(((recall - before) * precision).sum())


def _mean_average_precision(rows: Rows) -> float:
    scores, truth = rows["scores"], rows["truth"]
    found = [average_precision(scores[:, k], truth[:, k]) for k in range(scores.shape[1])]
    known = [value for value in found if not math.isnan(value)]
    return 100 * sum(known) / len(known) if known else math.nan


def _counts(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    said, truth = rows["scores"] > 0, rows["truth"]
    return (said & truth).sum(0), said.sum(0), truth.sum(0)


def _macro_f1(rows: Rows) -> float:
    both, said, truth = _counts(rows)
    return 100 * ratio(2 * both, said + truth)


def _micro_f1(rows: Rows) -> float:
    both, said, truth = (each.sum() for each in _counts(rows))
    return 100 * ratio(2 * both[None], (said + truth)[None])


def _accuracy(rows: Rows) -> float:
    return 100 * ratio(rows["right"].sum()[None], rows["counted"].sum()[None])


def _f1_of_counts(rows: Rows) -> float:
    return 100 * ratio(2 * rows["both"].sum()[None], (rows["said"] + rows["true"]).sum()[None])


def _iou_of_counts(rows: Rows) -> float:
    return 100 * ratio(rows["both"].sum()[None], (rows["said"] + rows["true"] - rows["both"]).sum()[None])


def _squeezed(value: Tensor, other: Tensor) -> Tensor:
    """Without the axis of one channel that only one of the two has."""
    if value.ndim == other.ndim + 1 and value.shape[1] == 1:
        return value.squeeze(1)
    if value.ndim == other.ndim + 1 and value.shape[-1] == 1:
        return value.squeeze(-1)
    return value


def _flat(value: Tensor, other: Tensor) -> Tensor:
    return _squeezed(value, other).reshape(len(value), -1)
