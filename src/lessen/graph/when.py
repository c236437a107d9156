"""When a snapshot of a node is taken.

Last epoch: Kim et al., Self-knowledge distillation with progressive refinement of targets, ICCV 2021, arXiv:2006.12000.
Last step: Shen et al., Self-distillation from the last mini-batch, CVPR 2022, arXiv:2203.16172.
Moving average: Tarvainen & Valpola, Mean teachers, NeurIPS 2017, arXiv:1703.01780.
"""

from __future__ import annotations

from typing import Annotated, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core.settings import settings


@runtime_checkable
class When(Protocol):
    """A settings object that moves a copy of a network after it, at three moments; most do nothing at two of them."""

    def before_step(self, copy: nn.Module, original: nn.Module, /) -> None:
        """Just before the optimizer moves the original."""

    def after_step(self, copy: nn.Module, original: nn.Module, /) -> None:
        """Just after."""

    def after_epoch(self, copy: nn.Module, original: nn.Module, /) -> None:
        """At the end of a pass over the data."""


class _Never:
    def before_step(self, copy: nn.Module, original: nn.Module, /) -> None: ...

    def after_step(self, copy: nn.Module, original: nn.Module, /) -> None: ...

    def after_epoch(self, copy: nn.Module, original: nn.Module, /) -> None: ...


@settings
class LastEpoch(_Never):
    """The node as it was at the end of the last epoch; in the first epoch, as it came in."""

    def after_epoch(self, copy: nn.Module, original: nn.Module, /) -> None:
        follow(copy, original)


@settings
class LastStep(_Never):
    """The node as it was one optimizer step ago."""

    def before_step(self, copy: nn.Module, original: nn.Module, /) -> None:
        follow(copy, original)


@settings
class MovingAverage(_Never):
    """An exponential moving average of weights and of floating-point buffers; other buffers are copied.

    Args:
        decay: How much of the average is kept at each step.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999

    def after_step(self, copy: nn.Module, original: nn.Module, /) -> None:
        follow(copy, original, share=1 - self.decay)


@torch.no_grad()
def follow(copy: nn.Module, original: nn.Module, *, share: float = 1.0) -> None:
    """Move a copy's floating-point state by `share` of the way to the original's; copy all other state."""
    ours, theirs = _state(copy), _state(original)
    floating = [(a, b) for a, b in zip(ours, theirs, strict=True) if a.is_floating_point()]
    rest = [(a, b) for a, b in zip(ours, theirs, strict=True) if not a.is_floating_point()]
    moved, towards = [a for a, _ in floating], [b for _, b in floating]
    if share == 1.0:
        torch._foreach_copy_(moved, towards)
    elif moved:
        torch._foreach_lerp_(moved, towards, share)
    for a, b in rest:
        a.copy_(b)


def _state(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]
