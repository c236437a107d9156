"""Refined logits: what contradicts the label is left out of the teacher, and its similarity of classes is kept.

Sun et al., Knowledge distillation with refined logits, ICCV 2025, arXiv:2408.07703, section 4.

Shapes: N examples, C classes along axis 1, any further axes are positions; labels are class indices, (N, ...).
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.functional.classes import at_label, class_numbers
from lessen.functional.divergences import forward_kl
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature
from lessen.knowledge.logits.decoupled import split_at_label


def confidence(student_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor) -> Tensor:
    """KL of two outcomes: the teacher's most probable class against the rest, the student's label against the rest."""
    of_student, _ = split_at_label(student_NC, labels_N)
    of_teacher, _ = split_at_label(teacher_NC, teacher_NC.argmax(1))
    return forward_kl(of_student, of_teacher)


def masked_correlation(student_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor) -> Tensor:
    """KL among the classes that the teacher ranks strictly below the label, each made to sum to one there.

    Zero where there is none. The classes left out get no gradient.
    """
    below_NC = teacher_NC < at_label(teacher_NC, labels_N).unsqueeze(1)
    any_N = below_NC.any(1)
    # Where no class is left all are kept, so that every sum has something in it, and the value is dropped at the end.
    kept_NC = below_NC | ~any_N.unsqueeze(1)

    def log_share(logits_NC: Tensor) -> Tensor:
        total = logits_NC.masked_fill(~kept_NC, -torch.inf).logsumexp(1, keepdim=True)
        # Classes that are left out would be far above zero here, and infinite one step later.
        return torch.where(kept_NC, logits_NC - total, 0.0)

    student_log, teacher_log = log_share(student_NC), log_share(teacher_NC)
    terms_NC = torch.where(kept_NC, teacher_log.exp() * (teacher_log - student_log), 0.0)
    return terms_NC.sum(1) * any_N


@settings
class RefinedLogits:
    """Match the teacher's confidence on the label, and its distribution over the classes it ranks below the label.

    Args:
        temperature: Divides both sets of logits; both parts are multiplied by its square.
        others: The weight of the part for classes below the label; the part for the confidence has weight 1.
    """

    temperature: Temperature = 4.0
    others: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 8.0

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.LABELS,)
    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="RLD, arXiv:2408.07703",
        says="Like decoupled distillation, but where the teacher is wrong, neither its class nor any class above the "
        "label is taught.",
        costs="A mask and a gather over both sets of logits.",
        fails_when="Labels are noisy: the teacher is refined towards the noise. Mixed labels are an error. If the "
        "teacher ranks the label last, only its confidence is taught.",
        differs="One temperature for both parts; classes are left out of the sums, not masked by -1e9.",
    )

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        values, labels = teacher
        require_same(student, values, what="RefinedLogits", least=2)
        labels_N = class_numbers(student, labels, what="RefinedLogits")
        temperature = first_temperature(self.temperature)
        both = wide(student) / temperature, wide(values) / temperature
        loss = confidence(*both, labels_N) + self.others * masked_correlation(*both, labels_N)
        return per_example(temperature**2 * loss, student)
