"""Zipf labels: soft labels without a teacher, from how sure the student is of the label and how it ranks the others.

Yang et al., From knowledge distillation to self-knowledge distillation, ICCV 2023, arXiv:2303.13005, section 3.2.

Shapes: N examples, C classes, F features.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, TaskFacts, settings
from lessen.core.errors import ShapeError
from lessen.functional.classes import at_label, class_numbers, without_label
from lessen.functional.shapes import wide
from lessen.knowledge.labels.labels import cross_entropy


def label_target(student_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The target of the label, s_y^2 + 1 - the mean of s_y^2 over the batch, without gradient: shape (N,).

    >>> label_target(torch.tensor([[0.0, 0.0], [50.0, 0.0]]), torch.tensor([0, 0]))
    tensor([0.6250, 1.3750])
    """
    with torch.no_grad():
        square_N = at_label(student_NC.softmax(1), labels_N).square()
        return square_N + 1 - square_N.mean()


def zipf(scores_NC: Tensor) -> Tensor:
    """1 / rank of each class by its score, the largest first, made to sum to one: shape (N, C).

    >>> zipf(torch.tensor([[0.2, 0.5, 0.3]]))
    tensor([[0.1818, 0.5455, 0.2727]])
    """
    ranks_NC = scores_NC.argsort(1, descending=True).argsort(1) + 1
    shares_NC = 1 / ranks_NC.to(scores_NC.dtype)
    return shares_NC / shares_NC.sum(1, keepdim=True)


def zipf_labels(
    student_NC: Tensor, weak_NC: Tensor, labels_N: Tensor, *, others: float, weak: float, smoothing: float = 0.1
) -> Tensor:
    """The loss of each example, shape (N,): the label at its target, the others by their ranks, and the weak head.

    Args:
        student_NC: The student's logits.
        weak_NC: The logits of a linear head on its features.
        labels_N: Class numbers.
        others: The weight of the part without the label.
        weak: The weight of the weak head's cross-entropy with smoothed labels.
        smoothing: Of these labels.
    """
    target_N = -label_target(student_NC, labels_N) * at_label(student_NC.log_softmax(1), labels_N)
    rest_NC, weak_rest_NC = without_label(student_NC, labels_N), without_label(weak_NC, labels_N)
    with torch.no_grad():
        shares_NC = zipf(rest_NC.softmax(1) + weak_rest_NC.softmax(1))
    others_N = -(shares_NC * rest_NC.log_softmax(1)).sum(1)
    return target_N + others * others_N + weak * cross_entropy(weak_NC, labels_N, smoothing=smoothing)


@settings
class ZipfLabels:
    """Learn from labels softened by the student itself; taps are `(features, logits)`, the source is the labels.

    Args:
        others: The weight of the part without the label.
        weak: The weight of the cross-entropy of the weak head, which also trains the student's features.
    """

    others: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.1
    weak: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.005

    relational: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="knowledge / labels",
        paper="USKD, arXiv:2303.13005",
        says="The label counts more if the student already believes it; wrong classes get 1 / rank in the student's "
        "order.",
        costs="A linear head on features while training, nothing in the shipped model and no teacher.",
        fails_when="The student's order of wrong classes is noise, as early in training or with few classes. Mixed "
        "labels are an error. Compare with label smoothing before believing in it.",
        differs="The wrong classes alone are ranked, by the two probabilities made to sum to one; released code "
        "includes the label in the ranking, and adds a logarithm to a probability by mistake.",
    )

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        return WeakHead(self, *_shapes(student_shape, teacher_shape))


class WeakHead(nn.Module):
    """A linear head on the mean of features over positions, and the loss that it helps to rank classes for.

    Args:
        told: The settings.
        features: How many features the first tap has.
        classes: How many logits the second has.
    """

    card: ClassVar[Card] = ZipfLabels.card
    relational: ClassVar[bool] = True

    def __init__(self, told: ZipfLabels, features: int, classes: int) -> None:
        super().__init__()
        self.told = told
        self.head = nn.Linear(features, classes)

    def forward(self, student: Any, teacher: Tensor) -> Tensor:
        _shapes(tuple(tuple(tap.shape) for tap in student), tuple(teacher.shape))
        features, logits_NC = student
        labels_N = class_numbers(logits_NC, teacher, what="ZipfLabels")
        weak_NC = self.head(_pooled(wide(features)))
        told = self.told
        loss_N = zipf_labels(wide(logits_NC), wide(weak_NC), labels_N, others=told.others, weak=told.weak)
        return loss_N.to(logits_NC.dtype)


def _pooled(features: Tensor) -> Tensor:
    """The mean over positions of a grid (N, F, H, W) or of tokens (N, T, F); a vector (N, F) as it is."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


def _shapes(student: Any, teacher: Any) -> tuple[int, int]:
    """How many features and how many classes there are."""
    taps = len(student) == 2 and all(isinstance(shape, tuple | torch.Size) for shape in student)
    if not taps or len(student[0]) not in (2, 3, 4) or len(student[1]) != 2 or len(teacher) != 1:
        raise ShapeError(
            "ZipfLabels needs two taps of the student, features (N, F), (N, T, F) or (N, F, H, W) and logits (N, C), "
            f"and labels (N,) as its source, but the student has {student} and the source {teacher}. "
            'Use target_tap=taps("layer3", "").'
        )
    return student[0][1 if len(student[0]) == 4 else -1], student[1][1]
