"""How an optimizer moves parameters: the only file in which one takes a step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def choose_kernels(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Move parameters one by one on the CPU, where no kernel is set: torch finds that out again in every step."""
    if device.type != "cpu":
        return
    for group in optimizer.param_groups:
        if group.get("foreach", False) is None and group.get("fused") is None:
            group["foreach"] = False


def rates_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """The learning rate of each group."""
    return [float(group["lr"]) for group in optimizer.param_groups]


def move(
    scaler: Any,
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[Tensor],
    *,
    rates: Sequence[float],
    factor: float,
    clip: float | None = None,
    before: Callable[[], None] | None = None,
) -> None:
    """Move parameters by their gradients, and drop the gradients.

    Args:
        scaler: What scaled the loss, to be updated when all optimizers have moved; None if it was not scaled.
        optimizer: Of the parameters.
        parameters: All that it moves.
        rates: The first learning rate of each group.
        factor: What they are multiplied by.
        clip: Bound on the norm of the gradient; None for none.
        before: Called with the gradients unscaled and clipped.
    """
    parameters = list(parameters)
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate * factor
    if scaler is not None and (clip is not None or before is not None):
        scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    if before is not None:
        before()
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
    # As `optimizer.zero_grad()` does, which also looks at every group and tells profilers of it.
    for parameter in parameters:
        parameter.grad = None
