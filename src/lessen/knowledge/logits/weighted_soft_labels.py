"""Weighted soft labels: the teacher counts less where the student is already better than it.

Zhou et al., Rethinking soft labels for knowledge distillation: a bias-variance tradeoff perspective, ICLR 2021,
arXiv:2102.00650, section 4.

Shapes: N examples, C classes along axis 1, any further axes are positions; labels are class indices, (N, ...).
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.functional.classes import at_label, class_numbers
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature


def regularization_weight(student: Tensor, teacher: Tensor, labels_N: Tensor, *, tiny: float = 1e-7) -> Tensor:
    """1 - exp(-student's cross-entropy / teacher's), both at temperature 1, without gradient: shape (N, ...).

    >>> even, sure = torch.zeros(1, 2), torch.tensor([[9.0, 0.0]])
    >>> labels = torch.tensor([0])
    >>> [round(float(regularization_weight(*pair, labels)), 3) for pair in ((even, even), (sure, even), (even, sure))]
    [0.632, 0.0, 1.0]
    """
    with torch.no_grad():
        of_student, of_teacher = (
            -at_label(wide(logits).log_softmax(1), labels_N).clamp(max=0) for logits in (student, teacher)
        )
        return -torch.expm1(-of_student / (of_teacher + tiny))


@settings
class WeightedSoftLabels:
    """Soft targets. Each example is weighted by how far the student is behind the teacher on its label.

    Args:
        temperature: Divides both sets of logits in the soft targets, which are multiplied by its square; the weight is
            measured at 1.
        divergence: How two distributions are compared.
    """

    temperature: Temperature = 4.0
    divergence: Divergence = ForwardKL()

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.LABELS,)
    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="WSLD, arXiv:2102.00650",
        says="(1 - exp(-student's cross-entropy / teacher's)) T^2 KL(teacher || student), the weight without gradient.",
        costs="Two more softmaxes over the logits.",
        fails_when="The teacher is sure of every label (trained to zero loss): every weight is then 1, and it is plain "
        "soft targets. Mixed labels are an error.",
        differs="KL where the paper has cross-entropy: the same gradient for the student. The paper's weight of 2.25 "
        "is the edge's.",
    )

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        values, labels = teacher
        require_same(student, values, what="WeightedSoftLabels", least=2)
        labels_N = class_numbers(student, labels, what="WeightedSoftLabels")
        temperature = first_temperature(self.temperature)
        both = ((wide(logits) / temperature).log_softmax(1) for logits in (student, values))
        loss = temperature**2 * self.divergence(*both)
        return per_example(regularization_weight(student, values, labels_N) * loss, student)
