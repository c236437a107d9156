"""Fake quantization: numbers rounded to the grid of integers that a runtime will compute with.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018,
arXiv:1712.05877; the straight-through gradient is Bengio, Léonard & Courville 2013, arXiv:1308.3432.

    code = clamp(round(x / scale) + zero_point, low, high),    x' = scale * (code - zero_point)

Two operators of PyTorch, so that an exporter meets each as one node and can write it as a QuantizeLinear and
DequantizeLinear pair. Rounding is to the nearest, halves to even, as in ONNX.

Shapes: O output channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SMALLEST = 2.0**-12
"""A channel's step is at least this part of the largest channel's. A channel that is nearly dead would otherwise make
its bias, counted in steps, overflow 32 bits."""


@torch.library.custom_op("lessen::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, low: int, high: int) -> Tensor:
    """Activations on one grid for the whole tensor, in the shape and type of `x`.

    The gradient passes where the code lies within [low, high] and stops where it was clamped.

    Args:
        x: Any shape, floating.
        scale: The step of the grid, positive, shape ().
        zero_point: The code of zero, shape (), int32.
        low: The smallest code.
        high: The largest code.

    >>> fake_quantize(torch.tensor([-1.0, 0.26, 9.0]), torch.tensor(0.5), torch.tensor(0), low=0, high=7)
    tensor([0.0000, 0.5000, 3.5000])
    """
    step, zero = wide(scale, x), wide(zero_point, x)
    return (x / step).round_().add_(zero).clamp_(low, high).sub_(zero).mul_(step).to(x.dtype)


@torch.library.custom_op("lessen::quantize_weight", mutates_args=())
def quantize_weight(weight: Tensor, *, limit: int, axis: int) -> Tensor:
    """Weights on a symmetric grid of 2 limit + 1 values for each output channel, in the shape and type of `weight`.

    The step of a channel is its largest magnitude divided by `limit`: it follows the weights while they are trained, so
    nothing is clamped and the gradient passes whole. Zero stays zero.

    Args:
        weight: Floating, any shape.
        limit: The largest code: 127 for 8 bits, 63 for 7.
        axis: The axis of the output channels.

    >>> quantize_weight(torch.tensor([[1.0, 0.4], [0.0, 30.0]]), limit=2, axis=0)
    tensor([[ 1.0000,  0.5000],
            [ 0.0000, 30.0000]])
    """
    step = along(weight_scale(weight, limit=limit, axis=axis), weight, axis)
    return (weight / step).round_().clamp_(-limit, limit).mul_(step)


def weight_scale(weight: Tensor, *, limit: int, axis: int) -> Tensor:
    """The step of each output channel's grid, shape (O,); 1 where a whole weight is zero."""
    others = [place for place in range(weight.ndim) if place != axis % weight.ndim]
    largest_O = weight.abs().amax(others) if others else weight.abs()
    largest_O = torch.maximum(largest_O, largest_O.amax() * SMALLEST)
    return torch.where(largest_O > 0, largest_O / limit, torch.ones_like(largest_O))


def wide(value: Tensor, x: Tensor) -> Tensor:
    """A number of the grid in a type that can count to 255 in steps: at least float32, whatever `x` is."""
    # Shape (1,) for a tensor of shape (): a number without axes would not widen the type of what it meets.
    return value.to(torch.promote_types(x.dtype, torch.float32)).reshape(1)


def along(value_O: Tensor, x: Tensor, axis: int) -> Tensor:
    """One number for each index of an axis of `x`, in a shape that multiplies `x`."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return value_O.reshape(shape)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, *, low: int, high: int) -> Tensor:
    return torch.empty_like(x)


@quantize_weight.register_fake
def _(weight: Tensor, *, limit: int, axis: int) -> Tensor:
    return torch.empty_like(weight)


def _remember(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.low, ctx.high = keyword_only_inputs["low"], keyword_only_inputs["high"]
    ctx.save_for_backward(*inputs)


def _straight_through(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    x, scale, zero_point = ctx.saved_tensors
    code = (x / wide(scale, x)).round_().add_(wide(zero_point, x))
    return gradient * ((code >= ctx.low) & (code <= ctx.high)), None, None


fake_quantize.register_autograd(_straight_through, setup_context=_remember)
quantize_weight.register_autograd(lambda ctx, gradient: gradient)


def plain_fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, *, low: int, high: int) -> Tensor:
    """`fake_quantize` in operators of PyTorch."""
    step, zero = wide(scale, x), wide(zero_point, x)
    return ((torch.clamp(torch.round(x / step) + zero, low, high) - zero) * step).to(x.dtype)


def plain_quantize_weight(weight: Tensor, *, limit: int, axis: int) -> Tensor:
    """`quantize_weight` in operators of PyTorch."""
    step = along(weight_scale(weight, limit=limit, axis=axis), weight, axis)
    return torch.clamp(torch.round(weight / step), -limit, limit) * step
