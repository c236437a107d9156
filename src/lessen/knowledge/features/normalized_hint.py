"""Hints between normalised features: three papers that differ in what they normalise, and in the distance.

Pearson correlation: Cao et al., PKD: general distillation framework for object detectors via Pearson correlation
coefficient, NeurIPS 2022, arXiv:2207.02039, section 3.2. Log-sum: Miles & Mikolajczyk, Understanding the role of the
projector in knowledge distillation, AAAI 2024, arXiv:2303.11098 (SRD). Orthogonal projection: Miles et al., VkD, CVPR
2024, arXiv:2403.06213.

Shapes: (N, ...), the same for both; a bridge on the edge makes them so.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.shapes import require_same
from lessen.knowledge.axes.distances import Distance, SquaredDistance
from lessen.knowledge.axes.normalizers import Normalizer, StandardizeChannels, normalized


@settings
class NormalizedHint:
    """Match features after each side is normalised.

    The defaults give PKD: 2 - 2 r, averaged over channels, where r is the Pearson correlation of a channel between
    student and teacher over the batch. `distance=LogSumDistance()` behind a linear bridge gives SRD. `student=AsItIs()`
    behind an `OrthogonalBridge()` gives VkD, and `teacher=Whiten()` its variant with whitening.

    Args:
        student: How the student's features are normalised.
        teacher: How the teacher's are.
        distance: How the two are compared.
    """

    student: Normalizer = StandardizeChannels()
    teacher: Normalizer = StandardizeChannels()
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="PKD, arXiv:2207.02039; SRD, arXiv:2303.11098; VkD, arXiv:2403.06213",
        says="The student's features vary from example to example as the teacher's do; scale and offset are free.",
        costs="Nothing in the shipped model; a bridge and a few passes over two feature maps per step.",
        fails_when="Batches are small; or the teacher has channels without information, which normalisation scales up "
        "to the others.",
        differs="PKD halves the squares: give the edge half the weight. SRD takes the logarithm of the sum over the "
        "whole batch. Here it is taken for each example, with 1 added inside, so that it is 0 at equality. VkD also "
        "uses a smooth L1: distance=HuberDistance().",
    )

    @property
    def relational(self) -> bool:
        """Whether a side is normalised over the batch."""
        return self.student.relational or self.teacher.relational

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        advice = "Put a bridge on the edge, as bridge=AutoBridge()."
        require_same(student, teacher, what="NormalizedHint", least=2, advice=advice)
        sides = normalized(student, self.student), normalized(teacher, self.teacher)
        return self.distance(*sides).to(student.dtype)
