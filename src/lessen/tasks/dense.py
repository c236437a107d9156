"""A class for every position: pixels of an image, tokens of a text.

Shapes: N examples, C classes, P positions of an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import DataError, ShapeError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows
from lessen.tasks.metrics import ratio, resampled_metric

MOST_COUNTED = 1000
"""Classes up to which intersections are counted for each class."""

MOST_SHOWN = 30
"""Classes up to which each has a figure of its own."""


@settings
class Dense:
    """A class at every position: outputs (N, C, ...) are logits, labels (N, ...) are class numbers.

    Args:
        class_axis: The axis of outputs with the classes: 1, or -1 for (N, ..., C).
        ignored: Labels of positions that do not count.
        classes: What they are called, or how many there are; None: as many as the network has outputs.
        tokens: Whether positions are tokens rather than pixels: networks are then judged by their accuracy.
    """

    class_axis: int = 1
    ignored: tuple[int, ...] = (-100, 255)
    classes: tuple[str, ...] | None = None
    tokens: bool = False

    name: ClassVar[str] = "dense"
    meaning: ClassVar[Meaning] = Meaning.CLASSES

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Mean intersection over union, share of right positions, likelihood, and the IoU of each class."""
        mean_iou = resampled_metric("mean_iou", "%", _mean_iou, higher_is_better=True)
        accuracy = resampled_metric("accuracy", "%", lambda rows: 100 * _share(rows, "right"), higher_is_better=True)
        nll = resampled_metric("nll", "nat", lambda rows: _share(rows, "nll"), higher_is_better=False)
        each = [
            resampled_metric(f"iou/{name}", "%", _iou_of(k), higher_is_better=True, draws=50)
            for k, name in enumerate((self.classes or ())[:MOST_SHOWN])
        ]
        return (accuracy, nll, mean_iou, *each) if self.tokens else (mean_iou, accuracy, nll, *each)

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError, DataError: they are not logits and classes of the same positions.
        """
        positions = _first(outputs, self.class_axis).shape[2:]
        if outputs.ndim < 3 or labels.is_floating_point() or positions != labels.shape[1:]:
            where = "(N, classes, ...)" if self.class_axis == 1 else "(N, ..., classes)"
            raise ShapeError(
                f"The task is dense, so outputs {where} and whole-number labels (N, ...) for the same positions were "
                f"expected, but the network returns {tuple(outputs.shape)} and the labels are "
                f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}."
            )
        classes = outputs.shape[self.class_axis]
        if self.classes is not None and len(self.classes) != classes:
            raise DataError(
                f"The network has {classes} outputs for each position, but the data has {len(self.classes)} classes. "
                f"Build the network with {len(self.classes)} outputs, or give the data it was trained for."
            )
        known = labels[self.counts(labels, classes)]
        if known.numel() and (int(known.min()) < 0 or int(known.max()) >= classes):
            raise DataError(
                f"Labels run from {int(known.min())} to {int(known.max())}, but the network has {classes} classes, "
                f"numbered from 0. Positions that do not count have the label {self.ignored[0]}; other numbers: "
                "task=lessen.tasks.Dense(ignored=...)."
            )

    def counts(self, labels: Tensor, classes: int) -> Tensor:
        """Which positions count, as bool. A class of the network is never ignored."""
        counts = torch.ones_like(labels, dtype=torch.bool)
        for value in self.ignored:
            if not 0 <= value < classes:
                counts &= labels != value
        return counts

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, averaged over the positions that count: shape (N,)."""
        sums, counts = self._nll(outputs, labels)
        return sums / counts.clamp_min(1)

    def _nll(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits = _first(outputs, self.class_axis)
        counts = self.counts(labels, logits.shape[1])
        each = F.cross_entropy(logits, labels.long().masked_fill(~counts, -100), reduction="none", ignore_index=-100)
        return each.flatten(1).sum(1), counts.flatten(1).sum(1)

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """For each example how many positions count and are right, and what was said and true of each class."""
        self.check(outputs, labels)
        logits = _first(outputs, self.class_axis)
        classes = logits.shape[1]
        counts = self.counts(labels, classes).flatten(1)
        said, truth = logits.argmax(1).flatten(1), labels.long().flatten(1)
        right = (said == truth) & counts
        nll, counted = self._nll(outputs.float(), labels)
        rows = {"right": right.sum(1), "counted": counted, "nll": nll.double()}
        if classes <= MOST_COUNTED:
            rows |= {
                "both": _histogram(truth, right, classes),
                "said": _histogram(said, counts, classes),
                "true": _histogram(truth, counts, classes),
            }
        return rows


def _first(outputs: Tensor, axis: int) -> Tensor:
    """With the classes along axis 1."""
    return outputs if axis == 1 else outputs.movedim(axis, 1)


def _histogram(classes_NP: Tensor, counts_NP: Tensor, classes: int) -> Tensor:
    """How often each class occurs among the positions that count: shape (N, C)."""
    counted = torch.zeros(len(classes_NP), classes, dtype=torch.int64)
    return counted.scatter_add_(1, classes_NP.clamp(0, classes - 1).cpu(), counts_NP.long().cpu())


def _share(rows: Rows, name: str) -> float:
    return ratio(rows[name].sum()[None], rows["counted"].sum()[None])


def _mean_iou(rows: Rows) -> float:
    if "both" not in rows:
        return math.nan
    both, said, truth = (rows[name].sum(0) for name in ("both", "said", "true"))
    return 100 * ratio(both, said + truth - both)


def _iou_of(k: int) -> Callable[[Rows], float]:
    def iou(rows: Rows) -> float:
        if "both" not in rows or k >= rows["both"].shape[1]:
            return math.nan
        both, said, truth = (rows[name][:, k].sum()[None] for name in ("both", "said", "true"))
        return 100 * ratio(both, said + truth - both)

    return iou
