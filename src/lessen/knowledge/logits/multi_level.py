"""Multi-level matching of logits: of examples, of the similarities of examples, and of the similarities of classes.

Jin, Wang & Lin, Multi-level logit distillation, CVPR 2023, section 3.

Shapes: N examples, C classes along axis 1; logits have no further axes.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import full_precision
from lessen.functional.shapes import mismatch, require_same, wide
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.logits.soft_targets import soft_targets


def batch_level(student_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """The squared difference of the similarities of an example to all examples, summed: shape (N,).

    Args:
        student_NC: Probabilities.
        teacher_NC: Probabilities.
    """
    return (student_NC @ student_NC.T - teacher_NC @ teacher_NC.T).square().sum(1)


def class_level(student_NC: Tensor, teacher_NC: Tensor) -> Tensor:
    """The squared difference of class similarities, summed over pairs, over the number of classes: shape ()."""
    difference_CC = student_NC.T @ student_NC - teacher_NC.T @ teacher_NC
    return difference_CC.square().sum() / len(difference_CC)


@settings
class MultiLevel:
    """Soft targets, similarity of examples and similarity of classes, each at several temperatures and summed.

    Args:
        temperatures: The temperatures at which all three are compared.
        examples: The weight of the similarity of examples; that of the soft targets is 1.
        classes: The weight of the similarity of classes.
        divergence: How two distributions over classes are compared.
    """

    temperatures: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (
        2.0,
        3.0,
        4.0,
        5.0,
        6.0,
    )
    examples: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    classes: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    divergence: Divergence = ForwardKL()

    relational: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="MLKD, Jin et al., CVPR 2023",
        says="T^2 KL, plus the difference of N x N and of C x C similarity matrices, over a set of temperatures.",
        costs="For each temperature two softmaxes and two products of matrices.",
        fails_when="The similarity of classes is a sum over the batch: its share of the loss grows with the square of "
        "the batch size. Published gains used stronger augmentation and longer training than the methods "
        "compared.",
        differs="Leaves out the authors' threshold on the teacher's confidence and their second, stronger view: these "
        "are a gate and a second edge.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="MultiLevel", least=2)
        if student.ndim != 2:
            raise mismatch(student, teacher, what="MultiLevel", expected="logits (N, C), without positions")
        total = torch.zeros_like(wide(student)[:, 0])
        for temperature in self.temperatures:
            logits = wide(student), wide(teacher)
            total = total + soft_targets(*logits, temperature=temperature, divergence=self.divergence)
            both = [(each / temperature).softmax(1) for each in logits]
            with full_precision(student):
                total = total + self.examples * batch_level(*both) + self.classes * class_level(*both)
        return total.to(student.dtype)
