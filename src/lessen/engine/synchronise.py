"""Batch normalisation over the whole batch of several processes.

Each process normalises its part of the batch by the mean and variance of that part; so two processes differ from
one. With
`Fit(sync_batchnorm=True)` the two sums are exchanged in every forward pass (and their gradients in the backward
pass), and two processes agree with one. It works on every device, while `torch.nn.SyncBatchNorm` is for GPUs.

Shapes: N examples, C channels along axis 1, any further axes are positions.
"""

from __future__ import annotations

import types
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronise(modules: Iterable[nn.Module]) -> list[_BatchNorm]:
    """Let every batch norm inside work over all processes, in place; the modules that `release` gives back."""
    found = {id(part): part for module in modules for part in module.modules() if isinstance(part, _BatchNorm)}
    for part in found.values():
        part.__dict__["forward"] = types.MethodType(_forward, part)
    return list(found.values())


def release(parts: Iterable[_BatchNorm]) -> None:
    """Make them what they were."""
    for part in parts:
        part.__dict__.pop("forward", None)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        """Sum."""
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sum again."""
        total = gradients[0].clone()
        torch.distributed.all_reduce(total)
        return total


def _forward(self: _BatchNorm, value: Tensor) -> Tensor:
    if not self.training:
        return type(self).forward(self, value)
    axes = [0, *range(2, value.ndim)]
    shape = [1, -1, *[1] * (value.ndim - 2)]
    count = value.new_full((1,), value.numel() / value.shape[1])
    sums: Tensor = _Sum.apply(torch.cat([value.sum(axes), value.square().sum(axes), count]))
    mean_C, square_C = (sums[:-1] / sums[-1]).chunk(2)
    variance_C = square_C - mean_C.square()
    if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        with torch.no_grad():
            self.running_mean.lerp_(mean_C.to(self.running_mean), share)
            unbiased_C = variance_C * (sums[-1] / (sums[-1] - 1))
            self.running_var.lerp_(unbiased_C.to(self.running_var), share)
    normal = (value - mean_C.reshape(shape)) * (variance_C + self.eps).rsqrt().reshape(shape)
    if self.affine:
        normal = normal * self.weight.reshape(shape) + self.bias.reshape(shape)
    return normal
