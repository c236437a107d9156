"""Rounding to grids whose step is a tensor of its own, with the gradients of learned steps.

Weights, and activations around a fixed zero: Esser et al., Learned step size quantization (LSQ), ICLR 2020,
arXiv:1902.08153, equations 1 to 5. With a learned offset: Bhalgat et al., LSQ+, 2020, arXiv:2004.09576. A learned clip:
Choi et al., PACT, 2018, arXiv:1805.06085, equations 1 to 3.

With v = x / step, counted from the end of the grid that lies lower, and Q the largest code, the result x' has

    dx'/dx = 1 inside, 0 where clamped,
    dx'/dstep = round(v) - v inside, the code where clamped.

The gradient of a step is multiplied by 1 / sqrt(numbers that share the step in one example * Q).

Shapes: O output channels.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from lessen.operations.quantize.fake import SMALLEST, along, wide


@torch.library.custom_op("lessen::quantize_weight_by", mutates_args=())
def quantize_weight_by(weight: Tensor, step: Tensor, *, limit: int, axis: int) -> Tensor:
    """Weights on a symmetric grid of 2 limit + 1 values for each output channel, in the shape and type of `weight`.

    Args:
        weight: Floating, any shape.
        step: The step of each channel, shape (O,).
        limit: The largest code: 127 for 8 bits, 7 for 4.
        axis: The axis of the output channels.

    >>> quantize_weight_by(torch.tensor([[1.0, 0.4], [0.0, 30.0]]), torch.tensor([0.5, 1.0]), limit=2, axis=0)
    tensor([[1.0000, 0.5000],
            [0.0000, 2.0000]])
    """
    size = along(positive(step), weight, axis)
    return (weight / size).round_().clamp_(-limit, limit).mul_(size).to(weight.dtype)


@torch.library.custom_op("lessen::quantize_by_step", mutates_args=())
def quantize_by_step(x: Tensor, step: Tensor, zero_point: Tensor, *, high: int) -> Tensor:
    """Activations on one grid, in the shape and type of `x`, with a gradient for the step.

    Args:
        x: Any shape, floating, examples along axis 0.
        step: Shape ().
        zero_point: The code of zero, shape (), int32.
        high: The largest code; the smallest is 0.
    """
    size, zero = wide(positive(step), x), wide(zero_point, x)
    return (x / size).round_().add_(zero).clamp_(0, high).sub_(zero).mul_(size).to(x.dtype)


@torch.library.custom_op("lessen::quantize_by_offset", mutates_args=())
def quantize_by_offset(x: Tensor, step: Tensor, offset: Tensor, *, high: int) -> Tensor:
    """Activations on one grid that starts near `offset`, in the shape and type of `x`; both learn.

    The offset is taken as the nearest integer of steps, from -high to 0, so that zero is on the grid.

    Args:
        x: Any shape, floating, examples along axis 0.
        step: Shape ().
        offset: The smallest value of the grid, shape ().
        high: The largest code; the smallest is 0.
    """
    size = wide(positive(step), x)
    zero = zero_of(wide(offset, x), size, high=high)
    return (x / size).round_().add_(zero).clamp_(0, high).sub_(zero).mul_(size).to(x.dtype)


@torch.library.custom_op("lessen::quantize_by_clip", mutates_args=())
def quantize_by_clip(x: Tensor, clip: Tensor, *, high: int) -> Tensor:
    """Activations on the grid from 0 to `clip`, in the shape and type of `x`.

    The gradient passes to x between, and to the clip from what lies above it.

    Args:
        x: Any shape, floating.
        clip: The largest value of the grid, shape ().
        high: The largest code.

    >>> quantize_by_clip(torch.tensor([-1.0, 0.6, 9.0]), torch.tensor(2.0), high=4)
    tensor([0.0000, 0.5000, 2.0000])
    """
    size = wide(positive(clip) / high, x)
    return (x / size).round_().clamp_(0, high).mul_(size).to(x.dtype)


def positive(step: Tensor) -> Tensor:
    """Steps without their sign, none below `SMALLEST` of the largest: what training may do to them does no harm."""
    size = step.abs()
    return torch.maximum(size, size.amax() * SMALLEST).clamp_min(torch.finfo(size.dtype).tiny)


def zero_of(offset: Tensor, step: Tensor, *, high: int) -> Tensor:
    """The code of zero of a grid that starts at the offset, as a floating number."""
    return (-offset / step).round().clamp(0, high)


def step_gradient(v: Tensor, *, low: float, high: float) -> Tensor:
    """dx'/dstep for x = v * step and codes from low to high (LSQ, equation 3), the shape of v.

    >>> step_gradient(torch.tensor([-9.0, -1.0, 0.25, 0.75, 9.0]), low=-2, high=2)
    tensor([-2.0000,  0.0000, -0.2500,  0.2500,  2.0000])
    """
    return torch.where((v >= low) & (v <= high), v.round() - v, v.clamp(low, high))


def plain_quantize_weight_by(weight: Tensor, step: Tensor, *, limit: int, axis: int) -> Tensor:
    """`quantize_weight_by` in operators of PyTorch."""
    size = along(positive(step), weight, axis)
    return (torch.clamp(torch.round(weight / size), -limit, limit) * size).to(weight.dtype)


def plain_quantize_by_step(x: Tensor, step: Tensor, zero_point: Tensor, *, high: int) -> Tensor:
    """`quantize_by_step` in operators of PyTorch."""
    size, zero = wide(positive(step), x), wide(zero_point, x)
    return ((torch.clamp(torch.round(x / size) + zero, 0, high) - zero) * size).to(x.dtype)


def plain_quantize_by_offset(x: Tensor, step: Tensor, offset: Tensor, *, high: int) -> Tensor:
    """`quantize_by_offset` in operators of PyTorch."""
    size = wide(positive(step), x)
    zero = zero_of(wide(offset, x), size, high=high)
    return ((torch.clamp(torch.round(x / size) + zero, 0, high) - zero) * size).to(x.dtype)


def plain_quantize_by_clip(x: Tensor, clip: Tensor, *, high: int) -> Tensor:
    """`quantize_by_clip` in operators of PyTorch."""
    size = wide(positive(clip) / high, x)
    return (torch.clamp(torch.round(x / size), 0, high) * size).to(x.dtype)


@quantize_weight_by.register_fake
def _(weight: Tensor, step: Tensor, *, limit: int, axis: int) -> Tensor:
    return torch.empty_like(weight)


@quantize_by_step.register_fake
def _(x: Tensor, step: Tensor, zero_point: Tensor, *, high: int) -> Tensor:
    return torch.empty_like(x)


@quantize_by_offset.register_fake
def _(x: Tensor, step: Tensor, offset: Tensor, *, high: int) -> Tensor:
    return torch.empty_like(x)


@quantize_by_clip.register_fake
def _(x: Tensor, clip: Tensor, *, high: int) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.settings = keyword_only_inputs
    ctx.save_for_backward(*inputs)


def _weight_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    weight, step = ctx.saved_tensors
    limit, axis = ctx.settings["limit"], ctx.settings["axis"]
    v = weight / along(positive(step), weight, axis)
    others = [place for place in range(weight.ndim) if place != axis % weight.ndim]
    each = gradient * step_gradient(v, low=-limit, high=limit)
    gain = 1 / math.sqrt(weight.numel() / step.numel() * limit)
    total_O = each.sum(others) if others else each
    return gradient * (v.abs() <= limit), (total_O * gain * _sign(step)).to(step.dtype)


def _step_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    x, step, zero_point = ctx.saved_tensors
    high, zero = ctx.settings["high"], wide(zero_point, x)
    v = x / wide(positive(step), x)
    inside = (v >= -zero) & (v <= high - zero)
    each = torch.where(inside, v.round() - v, torch.where(v < -zero, -zero, high - zero))
    return gradient * inside, ((gradient * each).sum() * _gain(x, high) * _sign(step)).to(step.dtype), None


def _offset_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, step, offset = ctx.saved_tensors
    high, size = ctx.settings["high"], wide(positive(step), x)
    v = x / size + zero_of(wide(offset, x), size, high=high)
    inside = (v >= 0) & (v <= high)
    of_step = (gradient * step_gradient(v, low=0, high=high)).sum() * _gain(x, high) * _sign(step)
    of_offset = (gradient * ~inside).sum() * _gain(x, high)
    return gradient * inside, of_step.to(step.dtype), of_offset.to(offset.dtype)


def _clip_gradient(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
    x, clip = ctx.saved_tensors
    edge = wide(positive(clip), x)
    return gradient * ((x >= 0) & (x < edge)), ((gradient * (x >= edge)).sum() * _sign(clip)).to(clip.dtype)


def _gain(x: Tensor, high: int) -> float:
    examples = x.shape[0] if x.ndim > 1 else 1
    return 1 / math.sqrt(max(x.numel() / examples, 1) * high)


def _sign(step: Tensor) -> Tensor:
    return torch.where(step < 0, -1.0, 1.0)


quantize_weight_by.register_autograd(_weight_gradient, setup_context=_remember)
quantize_by_step.register_autograd(_step_gradient, setup_context=_remember)
quantize_by_offset.register_autograd(_offset_gradient, setup_context=_remember)
quantize_by_clip.register_autograd(_clip_gradient, setup_context=_remember)
