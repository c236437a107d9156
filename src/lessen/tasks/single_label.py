"""One class of several for each example.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import DataError, ShapeError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows
from lessen.tasks.calibration import BINS, calibration_of
from lessen.tasks.classification import check_labels, decide
from lessen.tasks.metrics import mean_metric, resampled_metric, share_metric

SUM = 1e-2
"""How far the sum of a row of probabilities may be from 1."""


@settings
class SingleLabel:
    """One class of several for each example.

    Outputs (N, C) are logits. Labels are class numbers, (N,), or probabilities of classes, (N, C), each row of which
    sums to 1; one-hot rows are such probabilities.

    Args:
        classes: How many; None: as many as the network has outputs.
    """

    classes: int | None = None

    name: ClassVar[str] = "single_label"
    meaning: ClassVar[Meaning] = Meaning.CLASSES
    class_axis: ClassVar[int] = 1

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Accuracy, negative log-likelihood and calibration error."""
        calibration = resampled_metric("calibration_error", "%", _calibration, higher_is_better=False, bins=BINS)
        return (
            share_metric("accuracy", lambda rows: rows["right"]),
            mean_metric("nll", "nat", lambda rows: rows["nll"], higher_is_better=False),
            # With the interval of `calibration_of`, which stays above zero.
            replace(calibration, estimate=lambda rows: calibration_of(rows["confidence"], rows["right"])),
        )

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError, DataError: they are not logits and classes.
        """
        if outputs.ndim != 2 or outputs.shape[1] < 2:
            raise ShapeError(
                f"The task is single_label, so outputs of shape (N, classes) with at least 2 classes were expected, "
                f"but the network returns {tuple(outputs.shape)}. {_advice(outputs)}"
            )
        if self.classes is not None and outputs.shape[1] != self.classes:
            raise DataError(
                f"The network has {outputs.shape[1]} outputs, shape {tuple(outputs.shape)}, but the data has "
                f"{self.classes} classes. Build the network with {self.classes} outputs, or give the data it was "
                "trained for."
            )
        if labels.is_floating_point():
            _check_probabilities(outputs, labels)
        else:
            check_labels(outputs, labels)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, shape (N,)."""
        return F.cross_entropy(outputs, labels if labels.is_floating_point() else labels.long(), reduction="none")

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """Whether the decision is right, the likelihood of the label, and the confidence."""
        self.check(outputs, labels)
        truth = labels.argmax(1) if labels.is_floating_point() else labels
        target = labels.double() if labels.is_floating_point() else labels.long()
        probability = outputs.double().softmax(1)
        return {
            "right": decide(outputs) == truth,
            "nll": F.cross_entropy(outputs.double(), target, reduction="none"),
            "confidence": probability.max(1).values,
        }


def _check_probabilities(outputs: Tensor, labels: Tensor) -> None:
    if labels.shape != outputs.shape:
        raise ShapeError(
            f"The labels are floating-point numbers of shape {tuple(labels.shape)}, and the outputs have shape "
            f"{tuple(outputs.shape)}; probabilities of classes have the shape of the outputs. Give class numbers as "
            "integers of shape (N,), or task='regression' if the labels are numbers to predict."
        )
    sums = labels.sum(1)
    if bool((labels < 0).any()) or bool(((sums - 1).abs() > SUM).any()):
        raise DataError(
            f"Rows of probabilities sum to 1, but those of these labels sum to {float(sums.min()):g} to "
            f"{float(sums.max()):g}. If several labels of an example can be right, use task='multi_label'; if they are "
            "numbers to predict, task='regression'."
        )


def _advice(outputs: Tensor) -> str:
    if outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1):
        return "For one logit use task='binary'; for a number to predict task='regression'."
    return "For a class at every position use task='dense'; for features task='none'."


def _calibration(rows: Rows) -> float:
    return calibration_of(rows["confidence"], rows["right"], draws=1).value
