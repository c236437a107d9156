"""Feature maps and tokens alike, as one vector over positions for each channel.

Shapes: N examples, C channels, H x W positions of a map, P positions in all (H * W, or tokens).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lessen.core.errors import ShapeError
from lessen.functional.shapes import wide


def by_channel(features: Tensor) -> Tensor:
    """Maps (N, C, H, W), tokens (N, P, C) or vectors (N, C) as (N, C, P), in at least 32 bits; positions go row by row.

    >>> by_channel(torch.zeros(2, 5, 3, 4)).shape, by_channel(torch.zeros(2, 12, 5)).shape
    (torch.Size([2, 5, 12]), torch.Size([2, 5, 12]))
    >>> by_channel(torch.zeros(2, 5)).shape
    torch.Size([2, 5, 1])
    """
    features = wide(features)
    if features.ndim == 3:
        return features.transpose(1, 2)
    return features.unsqueeze(2) if features.ndim == 2 else features.flatten(2)


def channels_of(shape: Sequence[int]) -> int:
    """How many channels features of this shape have.

    >>> channels_of((8, 3)), channels_of((8, 10, 3)), channels_of((8, 3, 4, 4))
    (3, 3, 3)
    """
    return shape[2] if len(shape) == 3 else shape[1]


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Vectors scaled to length 1; a vector of zeros stays, and its gradient is that of the vector unscaled.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), 1)
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    length = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    # Dividing by a tiny number instead would hand a channel that is switched off a gradient a million times too large.
    return vectors / torch.where(length > torch.finfo(vectors.dtype).tiny ** 0.5, length, torch.ones_like(length))


def both_by_channel(
    student: Tensor, teacher: Tensor, *, what: str, same: Sequence[str] = ("channels", "positions"), advice: str = ""
) -> tuple[Tensor, Tensor]:
    """Both sides by channel, after a check.

    Args:
        student: Maps or tokens.
        teacher: Maps or tokens.
        what: Who asks, for the error.
        same: Which of "channels" and "positions" must be as many on both sides. Rows of a grid must be as long, too.
        advice: What to do about it.

    Raises:
        ShapeError: they do not fit; the text names both shapes.
    """
    shapes = tuple(student.shape), tuple(teacher.shape)
    if student.ndim in (3, 4) and teacher.ndim in (3, 4) and len(student) == len(teacher):
        sides = by_channel(student), by_channel(teacher)
        channels = "channels" not in same or sides[0].shape[1] == sides[1].shape[1]
        grids = student.ndim != 4 or teacher.ndim != 4 or shapes[0][2:] == shapes[1][2:]
        positions = "positions" not in same or (sides[0].shape[2] == sides[1].shape[2] and grids)
        if channels and positions:
            return sides
    wanted = " and ".join(("examples", *same))
    text = f"{what} needs maps (N, C, H, W) or tokens (N, P, C) with the same {wanted}"
    raise ShapeError(f"{text}, but the student has {shapes[0]} and the teacher {shapes[1]}. {advice}".rstrip())
