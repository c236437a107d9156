"""One for all: features of different architectures are compared where all architectures agree, in the space of logits.

Hao et al., One-for-all: bridge the gap between heterogeneous architectures in knowledge distillation, NeurIPS 2023,
arXiv:2310.19444, section 3. Known as OFA-KD.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.functional.classes import class_numbers
from lessen.functional.shapes import per_example, require_same, wide


def one_for_all(
    student_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor, *, power: float, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy with targets (p + 1[label]) ** power - 1[label], p the teacher's probabilities: (N, ...), in nat.

    >>> one_for_all(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), power=1.0)
    tensor([0.6931])
    """
    label_NC = torch.zeros_like(teacher_NC).scatter(1, labels_N.unsqueeze(1), 1.0)
    target_NC = ((teacher_NC / temperature).softmax(1) + label_NC).pow(power) - label_NC
    return -(target_NC * (student_NC / temperature).log_softmax(1)).sum(1)


@settings
class OneForAll:
    """Match the teacher's probabilities, with extra weight on the label, from any layer of the student.

    Needs the labels, as class indices. From an inner layer, the edge needs a bridge to logits, as `at(("layer2", ""),
    OneForAll(), bridge=AutoBridge())`: the mean over positions and a linear layer.

    Args:
        power: Of the target; above 1 the label counts more and the other classes less.
        temperature: Divides both sets of logits.
    """

    power: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.5
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="OFA-KD, arXiv:2310.19444",
        says="Each stage of the student, through its own exit, gives the teacher's probabilities.",
        costs="A linear exit per stage while training, nothing in the shipped model.",
        fails_when="The architectures are similar: features then tell more than probabilities. Early stages are "
        "forced to become linearly separable.",
        differs="The exits are linear bridges; released code puts convolutions or attention before them. The loss is a "
        "cross-entropy and is not 0 at equality: its minimum depends on the teacher.",
    )
    needs: ClassVar = (ObjectiveInput.LABELS,)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        logits_NC, labels = teacher
        advice = "Give the edge a bridge to logits, as bridge=AutoBridge()."
        require_same(student, logits_NC, what="OneForAll", least=2, advice=advice)
        labels_N = class_numbers(logits_NC, labels, what="OneForAll")
        sides = wide(student), wide(logits_NC)
        return per_example(one_for_all(*sides, labels_N, power=self.power, temperature=self.temperature), student)
