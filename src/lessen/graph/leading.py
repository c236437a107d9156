"""Losses whose gradient is led to some places: it is computed in the forward pass, and given in the backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def led(loss: Tensor, ways: Sequence[tuple[Tensor, Tensor, float]], scale: Tensor | None = None) -> Tensor:
    """A loss of the same value with a gradient at the given places, and none elsewhere.

    Args:
        loss: A scalar.
        ways: Each a weight, a place of its shape, and a factor: the place gets `factor * d loss / d weight`, exactly.
        scale: What losses are multiplied by before their gradients are taken, so that those of float16 do not vanish.
    """
    if not loss.requires_grad or not ways:
        return loss.detach()
    start = loss if scale is None else loss * scale
    found = torch.autograd.grad(start, [weight for weight, _, _ in ways], retain_graph=True, allow_unused=True)
    places, gradients = [], []
    for (_, place, factor), gradient in zip(ways, found, strict=True):
        if gradient is not None:
            places.append(place)
            gradients.append(gradient * factor if scale is None else gradient * (factor / scale))
    if not places:
        return loss.detach()
    result: Tensor = _Led.apply(loss.detach(), len(places), *places, *gradients)
    return result


class _Led(torch.autograd.Function):
    """Its gradient is what it was given."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *values: Tensor) -> Tensor:
        """The loss; `values` are the places and then their gradients."""
        ctx.save_for_backward(*values[count:])
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        """The gradients at the places."""
        gradients = ctx.saved_tensors
        return (None, None, *(gradient * outputs[0] for gradient in gradients), *(None for _ in gradients))
