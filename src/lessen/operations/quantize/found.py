"""Rounding to a grid that is found in the values themselves, as DynamicQuantizeLinear of ONNX does."""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255


@torch.library.custom_op("lessen::quantize_dynamically", mutates_args=())
def quantize_dynamically(x: Tensor) -> Tensor:
    """A tensor on the grid of 256 values from its own smallest value to its largest, zero among them.

    In the shape and type of `x`; the gradient passes straight through.

    >>> quantize_dynamically(torch.tensor([0.0, 0.1001, 2.55]))
    tensor([0.0000, 0.1000, 2.5500])
    """
    return plain_quantize_dynamically(x)


def plain_quantize_dynamically(x: Tensor) -> Tensor:
    """`quantize_dynamically` in operators of PyTorch."""
    wide = x.float()
    low, high = wide.amin().clamp(max=0), wide.amax().clamp(min=0)
    step = (high - low) / LEVELS
    step = torch.where(step > 0, step, torch.ones_like(step))
    zero = (-low / step).round().clamp(0, LEVELS)
    return (((wide / step).round() + zero).clamp(0, LEVELS) - zero).mul(step).to(x.dtype)


@quantize_dynamically.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


quantize_dynamically.register_autograd(lambda ctx, gradient: gradient)
