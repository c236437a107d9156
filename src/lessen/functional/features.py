"""Features of any number of axes, looked at channel by channel.

Shapes, by their number of axes: 2 a vector (N, C); 3 tokens (N, T, C); 4 or more a grid (N, C, ...). P positions.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def channels_of(shape: Sequence[int]) -> int:
    """How many channels features of this shape have.

    >>> channels_of((8, 3)), channels_of((8, 10, 3)), channels_of((8, 3, 4, 4))
    (3, 3, 3)
    """
    return shape[2] if len(shape) == 3 else shape[1]


def by_channel(features: Tensor) -> Tensor:
    """The features as (N, C, P): a view where that is possible; a vector has one position.

    >>> import torch
    >>> by_channel(torch.zeros(8, 10, 3)).shape, by_channel(torch.zeros(8, 3, 4, 5)).shape
    (torch.Size([8, 3, 10]), torch.Size([8, 3, 20]))
    """
    if features.ndim == 3:
        return features.transpose(1, 2)
    return features.unsqueeze(2) if features.ndim == 2 else features.flatten(2)
