"""Labels: the simplest teacher.

Label smoothing: Szegedy et al., Rethinking the Inception architecture, CVPR 2016, arXiv:1512.00567, section 7.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.core.errors import DataError, ShapeError
from lessen.core.task import Task
from lessen.functional.shapes import mismatch, per_example, require_same, wide
from lessen.knowledge.axes.distances import Distance, SquaredDistance
from lessen.tasks.single_label import SUM

_NO_LABEL = -(1 << 40)


def cross_entropy(logits: Tensor, labels: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Minus the log-probability of the label, shape (N,); positions are averaged.

    Args:
        logits: Shape (N, C, ...).
        labels: Class numbers, shape (N, ...), or probabilities, the shape of the logits.
        smoothing: The share of the target that is spread evenly over all classes, its own included.

    Raises:
        ShapeError: the labels fit neither as numbers nor as probabilities.

    >>> import torch
    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([1.3863, 1.3863])
    """
    shape = logits.shape
    if len(shape) < 2:
        raise mismatch(logits, labels, what="CrossEntropy", expected="logits of shape (N, C, ...)")
    if not smoothing and not labels.is_floating_point() and labels.shape == shape[:1] + shape[2:]:
        # One kernel each way; no label is one to be ignored here.
        loss = F.cross_entropy(wide(logits), labels.long(), reduction="none", ignore_index=_NO_LABEL)
        return per_example(loss, logits)
    log_probability = wide(logits).log_softmax(1)
    if labels.is_floating_point():
        require_same(logits, labels, what="CrossEntropy with probabilities as labels", least=2)
        loss = -(wide(labels) * log_probability).sum(1)
    elif labels.shape == shape[:1] + shape[2:]:
        loss = -log_probability.gather(1, labels.long().unsqueeze(1)).squeeze(1)
    else:
        raise mismatch(
            logits,
            labels,
            what="CrossEntropy",
            expected="labels of shape (N, ...) for logits of shape (N, C, ...)",
            advice="Labels are class indices (integers) or probabilities (floating point, the shape of the logits).",
        )
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * log_probability.mean(1)
    return per_example(loss, logits)


@settings
class CrossEntropy:
    """Learn from labels: class indices, or probabilities over classes.

    Args:
        smoothing: The share of the target that is spread evenly over all classes, from 0 up to, not including, 1.
    """

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    card: ClassVar[Card] = Card(
        row="knowledge / labels",
        paper="arXiv:1512.00567 (smoothing)",
        says="The student gives the label a high probability.",
        costs="Nothing in the shipped model.",
        fails_when="Labels are noisy: the student learns the noise. A network trained with smoothing is a worse "
        "teacher later.",
    )

    def for_task(self, task: Task | None, student: Any, teacher: Any) -> Self:
        """The same, after a look at outputs and labels.

        Raises:
            ShapeError: a softmax over one output teaches nothing.
            DataError: rows of probabilities do not sum to 1.
        """
        del task
        if student.ndim < 2 or student.shape[1] == 1:
            raise ShapeError(
                f"CrossEntropy: a softmax over one output, of shape {tuple(student.shape)}, is always 1 and teaches "
                "nothing. For one logit name task='binary', for a number to predict task='regression' or Regression()."
            )
        if teacher.is_floating_point() and teacher.shape == student.shape:
            sums = teacher.sum(1)
            if bool(((sums - 1).abs() > SUM).any()):
                raise DataError(
                    f"CrossEntropy: rows of probabilities sum to 1, but these labels sum to {float(sums.min()):g} to "
                    f"{float(sums.max()):g}. For several right labels name task='multi_label', for numbers to predict "
                    "task='regression'."
                )
        return self

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return cross_entropy(student, teacher, smoothing=self.smoothing)


@settings
class Regression:
    """Learn from labels that are numbers; outputs of shape (N, 1) fit labels of shape (N,).

    Args:
        distance: How far an output is from its label.
    """

    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / labels",
        paper="Gauss 1809",
        says="The student's output is near the label.",
        costs="Nothing in the shipped model.",
        fails_when="Labels are not scaled to unit variance: this loss is then far larger or far smaller than those of "
        "other edges.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        if student.ndim == teacher.ndim + 1 and student.shape[-1] == 1:
            student = student.squeeze(-1)
        require_same(student, teacher, what="Regression", advice="Labels need one value for each output.")
        return self.distance(wide(student), wide(teacher.to(student.dtype))).to(student.dtype)
