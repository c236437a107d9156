"""Decoupled distillation: the teacher's confidence in the label and its other classes, weighted separately.

Zhao et al., Decoupled knowledge distillation, CVPR 2022, arXiv:2203.08679, section 3.

Shapes: N examples, C classes along axis 1, any further axes are positions; labels are class indices, (N, ...).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.functional.classes import at_label, class_numbers, without_label
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature


def split_at_label(logits_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of label against all others, (N, 2, ...), and among the others, (N, C - 1, ...).

    The second is normalised by itself and never the difference of two logarithms of small numbers.

    >>> binary, others = split_at_label(torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([0]))
    >>> binary.exp(), others.exp()
    (tensor([[0.5000, 0.5000]]), tensor([[0.6000, 0.4000]]))
    """
    log_NC = logits_NC.log_softmax(1)
    others = without_label(log_NC, labels_N)
    return torch.stack([at_label(log_NC, labels_N), others.logsumexp(1)], 1), others.log_softmax(1)


def decoupled(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """The two parts, each times temperature ** 2, averaged over positions: of the label (N,), and of the others (N,).

    Their sum with the second times 1 - (the teacher's probability of the label) is T^2 KL of all classes.

    Raises:
        ShapeError: the logits differ in shape, or the labels do not fit them.
        DataError: the labels are mixed.
    """
    require_same(student, teacher, what="Decoupled", least=2)
    labels_N = class_numbers(student, labels, what="Decoupled")
    of_student, of_teacher = (split_at_label(wide(logits) / temperature, labels_N) for logits in (student, teacher))
    target, others = (temperature**2 * divergence(s, t) for s, t in zip(of_student, of_teacher, strict=True))
    return per_example(target, target), per_example(others, others)


@settings
class Decoupled:
    """Match the teacher's confidence in the label, and separately its distribution over the other classes.

    Args:
        temperature: Divides both sets of logits; both parts are multiplied by its square.
        others: The weight of the part without the label; that of the label's part is 1.
        divergence: How two distributions are compared, in both parts.
    """

    temperature: Temperature = 4.0
    others: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0
    divergence: Divergence = ForwardKL()

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.LABELS,)
    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="DKD, arXiv:2203.08679",
        says="KL of the label against the rest, plus a weight times KL among the rest.",
        costs="A gather over both sets of logits.",
        fails_when="The weight of the other classes was tuned for a teacher of different confidence. Early in "
        "training: the authors warm it up over 20 of 240 epochs (a schedule on the edge). Mixed labels are "
        "an error.",
        differs="The weight of the label's part (alpha, 1 in the paper) is the edge's; nothing is masked by -1000.",
    )

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        temperature = first_temperature(self.temperature)
        target, others = decoupled(student, *teacher, temperature=temperature, divergence=self.divergence)
        return (target + self.others * others).to(student.dtype)
