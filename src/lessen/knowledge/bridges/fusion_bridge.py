"""Fusion from deep to shallow: each of the student's layers is seen together with all deeper ones.

Chen et al., Distilling knowledge via knowledge review, CVPR 2021, arXiv:2104.09044, section 3.3.

Shapes: N examples, C channels, H x W positions; D channels inside. A vector (N, C) is a grid of one position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.core.errors import ShapeError


@settings
class FusionBridge:
    """Fuse the student's layers from the deepest to the shallowest.

    Its edge needs the same number of taps on both sides, listed from shallow to deep.

    Args:
        width: Number of channels passed from a deeper layer to the next shallower one. None: as many as the student's
            deepest layer has, at most 512.
    """

    width: Annotated[int, Field(ge=1)] | None = None

    card: ClassVar[Card] = Card(
        row="knowledge / bridges",
        paper="arXiv:2104.09044",
        says="A shallow layer of the teacher teaches the student's layer at that depth and all deeper ones.",
        costs="A 1 x 1 and a 3 x 3 convolution per layer while training, nothing in the shipped model.",
        fails_when="The fusion does the work: the loss falls, and the student's layers do not change.",
        differs="Grids are resized to the teacher's by nearest neighbours, as in the authors' code.",
    )
    pairs: ClassVar[bool] = True

    def build(self, student_shape: Any, teacher_shape: Any) -> nn.Module:
        """A module from a tuple of the student's values to a tuple of the teacher's shapes.

        Raises:
            ShapeError: a side is no tuple of as many grids or vectors as the other.
        """
        sides = student_shape, teacher_shape
        several = all(
            isinstance(side, tuple | list) and all(isinstance(shape, tuple | list) for shape in side) for side in sides
        )
        if not several or len(student_shape) != len(teacher_shape):
            raise ShapeError(
                f"FusionBridge needs several taps, as many on both sides, but the student has {student_shape} and the "
                f"teacher {teacher_shape}. Name them from shallow to deep, as taps('layer1', 'layer2')."
            )
        if any(len(shape) not in (2, 4) for side in sides for shape in side):
            raise ShapeError(
                "FusionBridge fuses grids (N, C, H, W) and vectors (N, C), but the student has "
                f"{student_shape} and the teacher {teacher_shape}. Tap other layers."
            )
        width = self.width or min(512, student_shape[-1][1])
        return Fusion([shape[1] for shape in student_shape], [tuple(shape[1:]) for shape in teacher_shape], width=width)


class Fusion(nn.Module):
    """A tuple of the student's layers, shallow to deep, to a tuple of the teacher's shapes.

    Args:
        channels: Of the student's layers.
        after: The teacher's shapes without the examples: (C,) or (C, H, W).
        width: D.
    """

    def __init__(self, channels: Sequence[int], after: Sequence[tuple[int, ...]], *, width: int) -> None:
        super().__init__()
        self.after = tuple(after)
        last = len(channels) - 1
        self.narrow = nn.ModuleList(_convolution(before, width, 1) for before in channels)
        self.attend = nn.ModuleList(nn.Conv2d(2 * width, 2, 1) for _ in channels[:last])
        self.widen = nn.ModuleList(_convolution(width, shape[0], 3) for shape in after)

    def forward(self, student: Sequence[Tensor]) -> tuple[Tensor, ...]:
        fused: list[Tensor] = []
        deeper: Tensor | None = None
        for number in reversed(range(len(self.after))):
            tap, shape = student[number], self.after[number]
            own = self.narrow[number](tap if tap.ndim == 4 else tap[:, :, None, None])
            if deeper is not None:
                deeper = F.interpolate(deeper, own.shape[2:], mode="nearest")
                share_N2HW = self.attend[number](torch.cat([own, deeper], 1)).sigmoid()
                own = own * share_N2HW[:, :1] + deeper * share_N2HW[:, 1:]
            deeper = F.interpolate(own, shape[1:] or (1, 1), mode="nearest")
            out = self.widen[number](deeper)
            fused.append(out if len(shape) == 3 else out.flatten(1))
        return tuple(reversed(fused))


def _convolution(before: int, after: int, size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, size, padding=size // 2, bias=False),
        nn.BatchNorm2d(after),
    )
