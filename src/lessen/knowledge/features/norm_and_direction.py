"""Norm and direction: the student's features point to the mean of their class, and are long.

Wang et al., Improving knowledge distillation via regularizing feature norm and direction, 2023, arXiv:2305.17007,
equation 8. Known as ND, or KD++ with soft targets.

Shapes: N examples, D features, K classes.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Card, ObjectiveInput, TaskFacts, settings
from lessen.core.errors import DataError
from lessen.functional.channels import by_channel, channels_of
from lessen.functional.classes import class_numbers
from lessen.functional.shapes import require_same


def norm_and_direction(student_ND: Tensor, teacher_ND: Tensor, direction_ND: Tensor) -> Tensor:
    """1 - the student's share in the direction, over the longer of student and teacher: shape (N,), from 0 to 2.

    Args:
        student_ND: The student's features.
        teacher_ND: The teacher's, of which only the length counts.
        direction_ND: Of length 1.

    >>> up = torch.tensor([[0.0, 1.0]])
    >>> norm_and_direction(2 * up, 4 * up, up), norm_and_direction(8 * up, 4 * up, up)
    (tensor([0.5000]), tensor([0.]))
    """
    lengths = (torch.linalg.vector_norm(features, dim=1) for features in (student_ND, teacher_ND))
    longer_N = torch.maximum(*lengths).clamp_min(torch.finfo(student_ND.dtype).tiny ** 0.5)
    return 1 - (student_ND * direction_ND).sum(1) / longer_N


@settings
class NormAndDirection:
    """Align the student's features with the teacher's mean feature of their class, with at least the teacher's norm.

    Needs the labels, as class indices. Grids and tokens are averaged over positions first. Tap the input of the
    classifier.
    """

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="ND, arXiv:2305.17007",
        says="Features of a class point the same way, and are long: 1 - <s, e> / max(|s|, |t|), e the class's mean.",
        costs="One mean per class while training, nothing in the shipped model.",
        fails_when="Classes have more than one mode: their mean is then no example's direction. Labels are noisy.",
        differs="The means are kept while training, over all outputs of the teacher so far; the authors compute them "
        "beforehand. For a class that has not been seen yet, the teacher's own feature gives the direction.",
    )
    needs: ClassVar = (ObjectiveInput.LABELS,)

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        if task.classes is None:
            raise DataError("NormAndDirection needs data with classes, and this data has none. Use Hint() instead.")
        return NormAndDirectionLoss(channels_of(teacher_shape), task.classes)


class NormAndDirectionLoss(nn.Module):
    """See `NormAndDirection`. The mean of a class is that of all its examples that were seen in training.

    Args:
        features: D, of the teacher.
        classes: K.
    """

    card: ClassVar[Card] = NormAndDirection.card
    needs: ClassVar = NormAndDirection.needs

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.mean_KD: Tensor
        self.seen_K: Tensor
        self.register_buffer("mean_KD", torch.zeros(classes, features))
        self.register_buffer("seen_K", torch.zeros(classes, dtype=torch.int64))

    def forward(self, student: Tensor, given: tuple[Tensor, Tensor]) -> Tensor:
        teacher, labels = given
        advice = "Put a bridge on the edge, as bridge=AutoBridge()."
        require_same(student, teacher, what="NormAndDirection", least=2, advice=advice)
        student_ND, teacher_ND = (by_channel(features).mean(2) for features in (student, teacher))
        labels_N = class_numbers(teacher_ND, labels, what="NormAndDirection")
        if self.training:
            self._look_at(teacher_ND.detach(), labels_N)
        return norm_and_direction(student_ND, teacher_ND, self.directions(teacher_ND, labels_N)).to(student.dtype)

    def directions(self, teacher_ND: Tensor, labels_N: Tensor) -> Tensor:
        """Where each example shall point: to its class's mean, or where the teacher does if none was seen: (N, D)."""
        known_N1 = (self.seen_K[labels_N] > 0).unsqueeze(1)
        return F.normalize(torch.where(known_N1, self.mean_KD[labels_N].to(teacher_ND.dtype), teacher_ND), dim=1)

    @torch.no_grad()
    def _look_at(self, teacher_ND: Tensor, labels_N: Tensor) -> None:
        count_K = torch.bincount(labels_N, minlength=len(self.seen_K))
        sum_KD = torch.zeros_like(self.mean_KD).index_add_(0, labels_N, teacher_ND.to(self.mean_KD.dtype))
        self.seen_K += count_K
        share_K1 = self.seen_K.clamp_min(1).unsqueeze(1)
        self.mean_KD += (sum_KD - count_K.unsqueeze(1) * self.mean_KD) / share_K1
