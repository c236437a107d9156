"""Attention transfer: teach where to look, not what to see.

Zagoruyko & Komodakis, Paying more attention to attention, ICLR 2017, arXiv:1612.03928, section 3.1.

Shapes: N examples, C channels, P positions (H * W of a map, or tokens).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.channels import both_by_channel, by_channel
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def attention_map(features: Tensor, *, power: float = 2.0) -> Tensor:
    """The energy of each position of maps (N, C, H, W) or tokens (N, P, C) over all channels, of length 1: (N, P).

    >>> import torch
    >>> attention_map(torch.ones(1, 3, 2, 2))
    tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
    """
    energy_NP = by_channel(features).abs().pow(power).mean(1)
    return F.normalize(energy_NP, dim=1)


@settings
class AttentionTransfer:
    """Match the spatial attention of two feature maps; their channels may differ in number.

    Both published forms are here. The authors' code: `AttentionTransfer()`, weights near 1000. The paper's equation 2,
    beta / 2 times the length of the difference, not squared: `AttentionTransfer(distance=EuclideanDistance())` on an
    edge of weight beta / 2.

    Args:
        power: Exponent on the activations; larger looks harder at the strongest positions. Below 1, a channel that is
            switched off would have an infinite gradient.
        distance: How two maps are compared. `SquaredDistance()` is the mean over positions of the squared difference,
            as in the authors' code; `EuclideanDistance()` is the length of the difference, as in the paper.
    """

    power: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 2.0
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / indirect features",
        paper="arXiv:1612.03928",
        says="The student's energy over positions follows the teacher's.",
        costs="Nothing in the shipped model; one pass over two maps per step.",
        fails_when="Maps are 1 x 1, or student and teacher look at different scales; published results on MobileNetV2 "
        "are below the plain student.",
        differs="By default the squared distance of the authors' code; the paper has half the norm. Squared "
        "differences of unit maps are about 1 / P small: weights near 1000 are usual.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        both_by_channel(
            student,
            teacher,
            what="AttentionTransfer",
            same=("positions",),
            advice="Put a bridge on the edge, as bridge=ResolutionBridge().",
        )
        maps = (attention_map(features, power=self.power) for features in (student, teacher))
        return self.distance(*maps).to(student.dtype)
