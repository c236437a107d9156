"""Transformed teacher matching: a softened teacher for a student at temperature 1.

Zheng & Yang, Knowledge distillation based on transformed teacher matching, ICLR 2024, arXiv:2402.11148, sections 3, 4.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.axes.transforms import TeacherPower


def power_sum(logits_NC: Tensor, *, power: float) -> Tensor:
    """The sum over classes of the probabilities to a power, (N, ...): from 1 where one is sure to C^(1 - power).

    >>> import torch
    >>> power_sum(torch.zeros(1, 4), power=0.5)
    tensor([2.])
    """
    return (power * logits_NC.log_softmax(1)).logsumexp(1).exp()


@settings
class TransformedTeacher:
    """Match the student's probabilities to a power of the teacher's; there is no factor T^2.

    Args:
        power: The exponent of the teacher's probabilities, 1 / temperature; they are then rescaled to sum to one.
        divergence: How two distributions are compared.
        weighted: Weight each example by the sum of its powers, which is larger when the teacher is less sure.
    """

    power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2
    divergence: Divergence = ForwardKL()
    weighted: bool = False

    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="TTM, and WTTM where weighted, arXiv:2402.11148",
        says="KL(teacher^power, made to sum to one || student).",
        costs="One pass over the logits.",
        fails_when="The weight of the edge is copied from soft targets: the paper uses up to 45. There are few "
        "labels: the student is then kept as unsure as the softened teacher.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="TransformedTeacher", least=2)
        logits = TeacherPower(power=self.power)(wide(student), wide(teacher))
        loss = self.divergence(*(each.log_softmax(1) for each in logits))
        if self.weighted:
            loss = loss * power_sum(wide(teacher), power=self.power)
        return per_example(loss, student)
