"""Which way each weight is rounded: up or down, as is best for what its layer or its block gives.

AdaRound: Nagel et al., Up or down? Adaptive rounding for post-training quantization, ICML 2020, arXiv:2004.10568,
sections 3 and 4. BRECQ: Li et al., ICLR 2021, arXiv:2102.05426, section 3. QDrop: Wei et al., ICLR 2022,
arXiv:2203.05740, section 4.

A weight w on steps s becomes s * (floor(w / s) + h(V)) with h in [0, 1] soft while V is learned, and 0 or 1 at the end.
The loss is the error of the output, as a share of that of rounding to the nearest, plus what pushes h to its ends.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from lessen.core.ranges import AnyShare, Count
from lessen.core.settings import settings
from lessen.core.where import Where

STRETCH = 1.2, -0.1
"""The sigmoid is stretched to (-0.1, 1.1) and clamped, so that 0 and 1 are reached."""

Positive = Annotated[float, Gt(0)]


def soft(v: Tensor) -> Tensor:
    """h(V): how far a weight is rounded up, from 0 to 1, the shape of `v`.

    >>> soft(torch.tensor([-9.0, 0.0, 9.0]))
    tensor([0.0000, 0.5000, 1.0000])
    """
    wide, low = STRETCH
    return (wide * torch.sigmoid(v) + low).clamp(0, 1)


def soft_inverse(h: Tensor) -> Tensor:
    """The V at which `soft` gives h, for h in [0, 1]."""
    wide, low = STRETCH
    return torch.logit((h - low) / wide)


def indecision(h: Tensor, *, power: float) -> Tensor:
    """Mean of 1 - abs(2 h - 1) ** power: 0 where every h is 0 or 1. The larger the power, the less it pulls inside.

    >>> indecision(torch.tensor([0.0, 1.0, 0.5, 0.5]), power=2.0)
    tensor(0.5000)
    """
    return (1 - (2 * h - 1).abs().pow(power)).mean()


def power_at(progress: float, *, warm_up: float, powers: tuple[float, float]) -> float | None:
    """The power of `indecision`: None while it is warming up, then from the first to the last, linearly.

    >>> [power_at(part, warm_up=0.5, powers=(20.0, 2.0)) for part in (0.25, 0.5, 0.75, 1.0)]
    [None, 20.0, 11.0, 2.0]
    """
    if progress < warm_up:
        return None
    share = (progress - warm_up) / (1 - warm_up) if warm_up < 1 else 1.0
    return powers[0] + share * (powers[1] - powers[0])


@settings
class AdaRound:
    """Up or down, one layer after another: each gives, behind the layers rounded before it, what it gave in full.

    Args:
        steps: Of the optimization of one layer.
        batch: Calibration examples in a step.
        rate: Of Adam, on V.
        decided: Weight of the pull to 0 and 1.
        powers: Of that pull, at its beginning and at its end.
        warm_up: The share of steps before it begins.
    """

    steps: Count = 500
    batch: Count = 32
    rate: Positive = 0.1
    decided: Positive = 16.0
    powers: tuple[Positive, Positive] = (20.0, 2.0)
    warm_up: AnyShare = 0.2

    joint: ClassVar[bool] = False
    blocks: ClassVar[Where] = None
    fisher: ClassVar[bool] = False
    damping: ClassVar[float] = 0.0
    drop: ClassVar[float] = 0.0


@settings
class Brecq:
    """Up or down, for all layers of a block at once: what must stay is what the block gives, where the loss feels it.

    Squared errors are weighted by the squared gradient of the loss with respect to them (the diagonal of Fisher's
    information), from the context's loss and labels. A network that is sure of nearly all examples feels the others
    only, so the weights are damped; the code that came with the paper adds 1 to slopes far below it.

    Args:
        steps: Of the optimization of one block.
        batch: Calibration examples in a step.
        rate: Of Adam, on V.
        decided: Weight of the pull to 0 and 1.
        powers: Of that pull, at its beginning and at its end.
        warm_up: The share of steps before it begins.
        blocks: Which modules are blocks; None for those in whose own forward function branches are joined, as in
            residual networks. A layer in none of them is a block of its own.
        fisher: Whether errors are weighted.
        damping: What is added to the weights, as a multiple of their mean. With 0 they are as in the paper.
    """

    steps: Count = 500
    batch: Count = 32
    rate: Positive = 0.1
    decided: Positive = 16.0
    powers: tuple[Positive, Positive] = (20.0, 2.0)
    warm_up: AnyShare = 0.2
    blocks: Where = None
    fisher: bool = True
    damping: Annotated[float, Ge(0)] = 1.0

    joint: ClassVar[bool] = True
    drop: ClassVar[float] = 0.0


@settings
class QDrop:
    """As `Brecq`, with activations left unrounded at random: what is found is good around grids, not only on them.

    Args:
        steps: Of the optimization of one block.
        batch: Calibration examples in a step.
        rate: Of Adam, on V.
        decided: Weight of the pull to 0 and 1.
        powers: Of that pull, at its beginning and at its end.
        warm_up: The share of steps before it begins.
        blocks: Which modules are blocks, as for `Brecq`.
        fisher: Whether errors are weighted, as for `Brecq`; in the paper they are not.
        damping: Of the weights, as for `Brecq`.
        drop: The share of activations that pass as they are in a step.
    """

    steps: Count = 500
    batch: Count = 32
    rate: Positive = 0.1
    decided: Positive = 16.0
    powers: tuple[Positive, Positive] = (20.0, 2.0)
    warm_up: AnyShare = 0.2
    blocks: Where = None
    fisher: bool = False
    damping: Annotated[float, Ge(0)] = 1.0
    drop: AnyShare = 0.5

    joint: ClassVar[bool] = True


Learning = AdaRound | Brecq | QDrop
