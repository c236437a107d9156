"""Fake quantization: numbers rounded to the grid of whole numbers that a runtime will compute with.

Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018,
arXiv:1712.05877; the straight-through gradient is Bengio, Léonard & Courville 2013, arXiv:1308.3432.

    code = clamp(round(x / scale) + zero_point, low, high),    x' = scale * (code - zero_point)

One operator of PyTorch, so that an exporter meets it as one node and can write it as a QuantizeLinear and
DequantizeLinear pair. Rounding is to the nearest, halves to even, as in ONNX.

Shapes: x (...); scale and zero_point () for the whole tensor, or (C,) along `axis`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("lessen::fake_quantize", mutates_args=())
def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor | None, *, low: int, high: int, axis: int | None
) -> Tensor:
    """The values of `x` on the grid, in the shape and type of `x`.

    The gradient passes where the code lies within [low, high] and stops where it was clamped.

    Args:
        x: Any shape, floating.
        scale: The step of the grid, positive: shape () or, with `axis`, (C,).
        zero_point: The code of zero, in the shape of scale; None for 0.
        low: The smallest code.
        high: The largest code.
        axis: The axis of `x` that `scale` runs along, or None.

    >>> fake_quantize(torch.tensor([-1.0, 0.26, 9.0]), torch.tensor(0.5), None, low=0, high=7, axis=None)
    tensor([0.0000, 0.5000, 3.5000])
    """
    step, zero = _along(scale, x, axis), None if zero_point is None else _along(zero_point, x, axis)
    code = (x / step).round_()
    if zero is None:
        return code.clamp_(low, high).mul_(step)
    return code.add_(zero).clamp_(low, high).sub_(zero).mul_(step)


def codes(x: Tensor, scale: Tensor, zero_point: Tensor | None, *, low: int, high: int, axis: int | None) -> Tensor:
    """The whole numbers behind `fake_quantize`, before they are multiplied by the scale again; same shape, int32."""
    code = (x / _along(scale, x, axis)).round()
    if zero_point is not None:
        code = code + _along(zero_point, x, axis)
    return code.clamp(low, high).to(torch.int32)


def _along(value: Tensor, x: Tensor, axis: int | None) -> Tensor:
    value = value.to(x.dtype)
    if axis is None:
        return value
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.reshape(shape)


@fake_quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor | None, *, low: int, high: int, axis: int | None) -> Tensor:
    return torch.empty_like(x)


def _remember(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    x, scale, zero_point = inputs
    ctx.low, ctx.high, ctx.axis = (keyword_only_inputs[name] for name in ("low", "high", "axis"))
    ctx.save_for_backward(x, scale, zero_point)


def _straight_through(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
    x, scale, zero_point = ctx.saved_tensors
    code = (x / _along(scale, x, ctx.axis)).round_()
    if zero_point is not None:
        code.add_(_along(zero_point, x, ctx.axis))
    inside = (code >= ctx.low) & (code <= ctx.high)
    return gradient * inside, None, None


fake_quantize.register_autograd(_straight_through, setup_context=_remember)


def _plain(x: Tensor, scale: Tensor, zero_point: Tensor | None, *, low: int, high: int, axis: int | None) -> Tensor:
    step, zero = _along(scale, x, axis), None if zero_point is None else _along(zero_point, x, axis)
    code = torch.round(x / step)
    if zero is None:
        return torch.clamp(code, low, high) * step
    return (torch.clamp(code + zero, low, high) - zero) * step


def decompositions() -> dict[Any, Any]:
    """PyTorch's default decompositions, and `fake_quantize` in PyTorch's own operators."""
    table = torch.export.default_decompositions()
    table[torch.ops.lessen.fake_quantize.default] = _plain
    return dict(table.items())
