"""Numbers to predict.

Shapes: N examples, D numbers of each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

from torch import Tensor

from lessen.core.errors import DataError, ShapeError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows
from lessen.tasks.metrics import resampled_metric


@settings
class Quantities:
    """Numbers to predict: outputs and labels of shape (N,), (N, 1), (N, D) or (N, ...)."""

    name: ClassVar[str] = "regression"
    meaning: ClassVar[Meaning] = Meaning.NUMBERS
    class_axis: ClassVar[int] = 1

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Root of the mean squared error, mean absolute error, and the share of variance explained (R2)."""
        return (
            resampled_metric("rmse", "1", _rmse, higher_is_better=False),
            resampled_metric("mae", "1", lambda rows: float(rows["absolute"].mean()), higher_is_better=False),
            resampled_metric("r2", "1", _r2, higher_is_better=True),
        )

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError, DataError: there is not one output for each number.
        """
        if outputs.numel() != labels.numel() or _inner(outputs) != _inner(labels):
            raise ShapeError(
                f"The task is regression, so one output for each number to predict was expected, but the network "
                f"returns {tuple(outputs.shape)} and the labels are {tuple(labels.shape)}."
            )
        if labels.is_complex():
            raise DataError("Complex labels cannot be predicted. Give real and imaginary parts as two numbers.")

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Squared error, averaged over the numbers of an example: shape (N,)."""
        count = len(outputs)
        return (outputs.reshape(count, -1) - labels.to(outputs.dtype).reshape(count, -1)).square().mean(1)

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """Squared and absolute errors, and the labels with their squares, for the variance."""
        self.check(outputs, labels)
        count = len(outputs)
        said, truth = outputs.double().reshape(count, -1), labels.double().reshape(count, -1)
        error = said - truth
        return {
            "squared": error.square().mean(1),
            "absolute": error.abs().mean(1),
            "errors": error.square() if error.shape[1] <= 64 else error.square().mean(1, keepdim=True),
            "labels": truth if error.shape[1] <= 64 else truth.mean(1, keepdim=True),
            "labels_squared": truth.square() if error.shape[1] <= 64 else truth.square().mean(1, keepdim=True),
        }


def _rmse(rows: Rows) -> float:
    return math.sqrt(float(rows["squared"].mean()))


def _r2(rows: Rows) -> float:
    """Averaged over the numbers of an example, those that vary."""
    variance = rows["labels_squared"].mean(0) - rows["labels"].mean(0).square()
    some = variance > 1e-12 * rows["labels_squared"].mean(0).clamp_min(1e-30)
    if not bool(some.any()):
        return math.nan
    return float((1 - rows["errors"].mean(0)[some] / variance[some]).mean())


def _inner(values: Tensor) -> tuple[int, ...]:
    shape = tuple(values.shape)
    return shape[:1] if shape[1:] == (1,) else shape
