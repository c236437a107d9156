"""Attention transfer: teach where to look, not what to see.

Zagoruyko & Komodakis, Paying more attention to attention, ICLR 2017, arXiv:1612.03928, section 3.1.

Shapes: N examples, C channels, H x W positions, P = H * W.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.shapes import mismatch, wide
from lessen.knowledge.distances import Distance, SquaredDistance


def attention_map(features_NCHW: Tensor, *, power: float = 2.0) -> Tensor:
    """The energy of each position over all channels, scaled to unit length: shape (N, P).

    >>> import torch
    >>> attention_map(torch.ones(1, 3, 2, 2))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    energy_NP = features_NCHW.abs().pow(power).mean(1).flatten(1)
    return F.normalize(energy_NP, dim=1)


@settings
class AttentionTransfer:
    """Match the spatial attention of two feature maps; their channels may differ in number.

    Args:
        power: Exponent on the activations; larger looks harder at the strongest positions.
        distance: How two maps are compared. `SquaredDistance()` is the mean over positions of the squared difference,
            as in the authors' code; `EuclideanDistance()` is the length of the difference, as in the paper.
    """

    power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 2.0
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / indirect features",
        paper="arXiv:1612.03928",
        says="The student's energy over positions follows the teacher's.",
        costs="Nothing in the shipped model; one pass over two maps a step.",
        fails_when="Maps are 1 x 1, or student and teacher look at different scales; published results on MobileNetV2 "
        "are below the plain student.",
        differs="By default the squared distance of the authors' code; the paper writes the norm, and half of it. "
        "Squared differences of unit maps are about 1 / P small: weights near 1000 are usual.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        if (
            student.ndim != 4
            or teacher.ndim != 4
            or (student.shape[0], student.shape[2:])
            != (
                teacher.shape[0],
                teacher.shape[2:],
            )
        ):
            raise mismatch(
                student,
                teacher,
                what="AttentionTransfer",
                expected="feature maps (N, C, H, W) with the same N, H and W",
                advice="Put a bridge on the edge, as bridge=ResolutionBridge().",
            )
        maps = (attention_map(wide(features), power=self.power) for features in (student, teacher))
        return self.distance(*maps).to(student.dtype)
