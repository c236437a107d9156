"""Normalised distillation: the teacher's probability of the label, and its other classes made to sum to one.

Yang et al., From knowledge distillation to self-knowledge distillation, ICCV 2023, arXiv:2303.13005, section 3.1.

Shapes: N examples, C classes along axis 1, any further axes are positions; labels are class indices, (N, ...).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field
from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.functional.classes import at_label, class_numbers, without_label
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature
from lessen.knowledge.logits.soft_targets import soft_targets


def normalized(
    student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, divergence: Divergence
) -> tuple[Tensor, Tensor]:
    """The part of the label, -t_y log s_y at temperature 1, and that of the others at a temperature: each (N,).

    Raises:
        ShapeError: the logits differ in shape, or the labels do not fit them.
        DataError: the labels are mixed.
    """
    require_same(student, teacher, what="Normalized", least=2)
    labels_N = class_numbers(student, labels, what="Normalized")
    student, teacher = wide(student), wide(teacher)
    student_log, teacher_log = (at_label(logits.log_softmax(1), labels_N) for logits in (student, teacher))
    others = (without_label(logits, labels_N) for logits in (student, teacher))
    target = per_example(-teacher_log.exp() * student_log, student)
    return target, soft_targets(*others, temperature=temperature, divergence=divergence)


@settings
class Normalized:
    """Cross-entropy weighted by the teacher's probability of the label, plus a divergence over the other classes.

    Args:
        others: The weight of the part without the label.
        temperature: Divides the logits in the part without the label, which is multiplied by the square of the
            temperature.
        divergence: How two distributions over the other classes are compared.
    """

    others: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.5
    temperature: Temperature = 1.0
    divergence: Divergence = ForwardKL()

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.LABELS,)
    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="NKD, arXiv:2303.13005",
        says="-t_y log s_y, plus a weight times T^2 KL among the other classes.",
        costs="A gather over both sets of logits.",
        fails_when="The teacher is wrong: the label then has a small weight. Mixed labels are an error.",
        differs="KL among the other classes, which is the paper's cross-entropy less the teacher's own entropy, with "
        "the same gradient for the student. One released version masks nothing, and keeps the label among the others.",
    )

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        temperature = first_temperature(self.temperature)
        target, others = normalized(student, *teacher, temperature=temperature, divergence=self.divergence)
        return (target + self.others * others).to(student.dtype)
