"""Hierarchical context: maps agree in detail, and in what they are on average over larger and larger parts.

Chen et al., Distilling knowledge via knowledge review, CVPR 2021, arXiv:2104.09044, section 3.3. Known as ReviewKD,
together with the bridge that fuses the student's layers from deep to shallow.

Shapes: N examples, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.shapes import require_same, wide
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def hierarchical_context(
    student_NCHW: Tensor, teacher_NCHW: Tensor, *, sizes: Sequence[int], distance: Distance
) -> Tensor:
    """The weighted mean of the distance at full size and pooled to each of the sizes, each half of the last: (N,).

    Sizes that are not smaller than the height of the map are left out.
    """
    loss_N, weight, total = distance(student_NCHW, teacher_NCHW), 1.0, 1.0
    for size in sizes:
        if size >= student_NCHW.shape[2]:
            continue
        weight /= 2
        total += weight
        pooled = (F.adaptive_avg_pool2d(features, (size, size)) for features in (student_NCHW, teacher_NCHW))
        loss_N = loss_N + weight * distance(*pooled)
    return loss_N / total


@settings
class HierarchicalContext:
    """Match feature maps at several scales.

    Args:
        sizes: The heights and widths they are pooled to, from large to small.
        distance: How two maps of one size are compared.
    """

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = (4, 2, 1)
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="ReviewKD, arXiv:2104.09044",
        says="The student's maps equal the teacher's, at full resolution and pooled.",
        costs="Nothing in the shipped model; a bridge and a few passes over two feature maps per step.",
        fails_when="Maps are so small that pooling adds nothing: it is then a plain hint.",
        differs="The loss alone. The fusion of layers from deep to shallow is a bridge over several taps, and the "
        "paper's warm-up over 20 epochs is the schedule of the edge.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        advice = "Tap convolutional layers, and put a bridge on the edge, as bridge=AutoBridge()."
        require_same(student, teacher, what="HierarchicalContext", least=4, advice=advice)
        loss_N = hierarchical_context(wide(student), wide(teacher), sizes=self.sizes, distance=self.distance)
        return loss_N.to(student.dtype)
