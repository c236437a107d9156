"""Does the pruned network compute what the masked original computes? Proven by running both."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Inputs, call, map_inputs
from lessen.core.seeds import derive
from lessen.operations.prune_channels.masked import masked
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.surgery.modules import copy_with

TOLERANCE = 1e-8


def verify(model: nn.Module, plan: PrunedChannels, inputs: Inputs) -> str | None:
    """None if the pruned network equals the masked original, else what is wrong, in one sentence.

    Args:
        model: The network, `randomised` or `in_double`.
        plan: What is removed from it.
        inputs: What it is run on.
    """
    try:
        with torch.no_grad():
            found = list(_outputs(call(plan.apply(model), double(inputs))))
            wanted = list(_outputs(call(masked(model, plan), double(inputs))))
    except Exception as error:  # noqa: BLE001  (whatever the network's own code raises is the finding)
        said = str(error).strip() or "it does not say why"
        return f"the pruned network does not run: {type(error).__name__}: {said.splitlines()[0][:200]}"
    return compare(found, wanted)


def runs(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the network takes these inputs, and its outputs are finite."""
    try:
        with torch.no_grad():
            outputs = list(_outputs(call(model, double(inputs))))
    except Exception:  # noqa: BLE001  (whatever the network's own code raises)
        return False
    return all(bool(value.isfinite().all()) for value in outputs)


def compare(found: list[Tensor], wanted: list[Tensor], tolerance: float = TOLERANCE) -> str | None:
    """None if the tensors are equal within a tolerance relative to the largest entry, else what is wrong."""
    if [value.shape for value in found] != [value.shape for value in wanted]:
        return f"outputs have shapes {[tuple(v.shape) for v in found]} instead of {[tuple(v.shape) for v in wanted]}"
    for a, b in zip(found, wanted, strict=True):
        if not a.is_floating_point():
            continue
        off = float((a - b).abs().max() / b.abs().max().clamp_min(1e-300)) if a.numel() else 0.0
        if not off <= tolerance:
            return f"outputs differ from the masked network by {off:.1e} of the largest"
    return None


def randomised(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy in float64 and evaluation mode with random parameters that keep signals at their scale.

    What is proven on it does not rest on weights that happen to be zero (a fresh classifier, a layer scale of 1e-6).
    """
    generator = torch.Generator().manual_seed(derive(seed, "verify"))
    values: dict[str, Tensor] = {}
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if tensor.is_floating_point():
            values[name] = _random(name, tensor, generator).double()
    return copy_with(model, values).cpu().eval()


def in_double(model: nn.Module) -> nn.Module:
    """A copy in float64 and evaluation mode with the parameters as they are."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    values = {name: tensor.detach().double() for name, tensor in tensors if tensor.is_floating_point()}
    return copy_with(model, values).cpu().eval()


def _random(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    shape = tensor.shape
    if name.endswith("running_mean"):
        return torch.randn(shape, generator=generator) * 0.1
    if name.endswith("running_var"):
        return torch.rand(shape, generator=generator) + 0.5
    if isinstance(tensor, nn.Parameter) and sum(size > 1 for size in shape) < 2:
        # Biases, scales and slopes: of both signs, so that every branch of an activation is seen, and far from zero.
        sign = torch.randint(2, shape, generator=generator) * 2 - 1
        return sign * (torch.rand(shape, generator=generator) + 0.5)
    if isinstance(tensor, nn.Parameter):
        return torch.randn(shape, generator=generator) * math.sqrt(2 / tensor[0].numel())
    return tensor.detach().cpu()


def double(inputs: Inputs) -> Inputs:
    """Inputs for a `randomised` network."""
    return map_inputs(inputs, lambda value: value.cpu().double() if value.is_floating_point() else value.cpu())


def _outputs(outputs: Any) -> Iterator[Tensor]:
    leaves, _ = torch.utils._pytree.tree_flatten(outputs)
    yield from (leaf for leaf in leaves if isinstance(leaf, Tensor))
