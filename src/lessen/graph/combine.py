"""Combine: what a node does with several losses that arrive at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lessen.core.settings import settings


@runtime_checkable
class Combine(Protocol):
    """`(losses by edge, parameters) -> scalar`, whose gradient is the direction in which the node moves.

    Each loss is a scalar, already weighted and gated, and still carries its graph. `parameters` are all that the
    node's optimizer moves. A rule on losses (sum, learned weights) returns a scalar made of them. A rule on gradients
    (projection of conflicts, least-norm point) takes one gradient for each loss with
    `torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)`, decides a direction d, and returns
    the sum over parameters p of `(p * d).sum()`, whose gradient is d exactly. It is called once in each forward
    pass; with several processes it sees the losses of its own part of the batch. A rule with weights of its own is an
    `nn.Module`; they are trained and saved with the node's.
    """

    def __call__(self, losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter], /) -> Tensor: ...


@settings
class Sum:
    """The sum: what every paper does unless it says otherwise."""

    def __call__(self, losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter], /) -> Tensor:
        del parameters
        values = iter(losses.values())
        total = next(values)
        for value in values:
            total = total + value
        return total
