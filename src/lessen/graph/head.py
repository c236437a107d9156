"""Heads: how a branch makes an output of what it taps.

Shapes, by their number of axes: 2 a vector (N, C); 3 tokens (N, T, C); 4 a grid (N, C, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.errors import ShapeError
from lessen.core.settings import settings


@settings
class LinearHead:
    """Average pooling over positions, then a linear layer to the shape of the network's output.

    Args:
        hidden: Width of a hidden layer with ReLU before the linear layer; None: no hidden layer.
    """

    hidden: Annotated[int, Field(ge=1)] | None = None

    card: ClassVar[Card] = Card(
        row="schemes / heads",
        paper="arXiv:1905.08094 (the exits, there with convolutions before them)",
        says="An exit from the middle of a network.",
        costs="One linear layer while training, nothing in the shipped model.",
        fails_when="Early features are not linearly separable: the exit then changes them in ways that harm the later "
        "layers.",
    )

    def build(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
        if len(student_shape) not in {2, 3, 4} or len(teacher_shape) < 2:
            raise ShapeError(
                f"LinearHead maps a vector, tokens or a grid to an output, not {tuple(student_shape)} to "
                f"{tuple(teacher_shape)}. Give the branch a head of its own."
            )
        features = student_shape[-1] if len(student_shape) == 3 else student_shape[1]
        outputs = math.prod(teacher_shape[1:])
        layers: list[nn.Module] = [MeanOverPositions()]
        if self.hidden is not None:
            layers += [nn.Linear(features, self.hidden), nn.ReLU()]
            features = self.hidden
        layers.append(nn.Linear(features, outputs))
        if len(teacher_shape) > 2:
            layers.append(nn.Unflatten(1, tuple(teacher_shape[1:])))
        return nn.Sequential(*layers)


class MeanOverPositions(nn.Module):
    """A vector for each example (N, C): the mean over tokens or over a grid; vectors stay as they are."""

    def forward(self, value: Tensor) -> Tensor:
        if value.ndim == 4:
            return value.mean((2, 3))
        return value.mean(1) if value.ndim == 3 else value
