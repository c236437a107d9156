"""Inter-channel correlation: which channels fire together.

Liu et al., Exploring inter-channel correlation for diversity-preserved knowledge distillation, ICCV 2021,
arXiv:2202.03680, section 3.2.

Shapes: N examples, C channels, P positions (H * W of a map, or tokens).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.channels import both_by_channel, unit
from lessen.functional.pairs import full_precision


def channel_correlation(features_NCP: Tensor) -> Tensor:
    """Products of all pairs of channels over positions, each row scaled to length 1: shape (N, C, C).

    >>> import torch
    >>> channel_correlation(torch.eye(2)[None])
    tensor([[[1., 0.],
             [0., 1.]]])
    """
    with full_precision(features_NCP):
        return unit(features_NCP @ features_NCP.transpose(1, 2), 2)


@settings
class ChannelCorrelation:
    """Match which channels are active together; their positions are not compared, so maps may differ in size."""

    card: ClassVar[Card] = Card(
        row="knowledge / indirect features",
        paper="arXiv:2202.03680 (ICKD)",
        says="1 / C times the squared difference of the two channel-by-channel Gram matrices, whose rows are scaled to "
        "length 1.",
        costs="Nothing in the shipped model; a C x C product per example and step.",
        fails_when="Channels do not correspond, and no bridge aligns them. Reproductions by others were well below the "
        "published accuracy (68.3 instead of 72.2 on ImageNet).",
        differs="Averaged over examples; the authors' code divides by the number of examples twice.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        student_NCP, teacher_NCP = both_by_channel(
            student,
            teacher,
            what="ChannelCorrelation",
            same=("channels",),
            advice="Put a bridge on the edge, as bridge=ChannelBridge().",
        )
        difference_NCC = channel_correlation(student_NCP) - channel_correlation(teacher_NCP)
        return (difference_NCC.square().sum((1, 2)) / student_NCP.shape[1]).to(student.dtype)
