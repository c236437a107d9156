"""What removed channels add on average stays, in the biases of the layers that read them.

Behind a batch normalisation and a ReLU a channel whose factor is zero still holds relu(beta), the same everywhere:
taking it out shifts whatever reads it. The mean of what each removed channel holds, times the weights that read it, is
added to the reader's bias, or, where it has none, taken from the running mean of the batch normalisation behind it. For
a channel that holds one number everywhere that is exact, but for the borders of a padded convolution.

Ye et al., Rethinking the smaller-norm-less-informative assumption in channel pruning of convolution layers, ICLR 2018,
arXiv:1802.00124, fold what a constant channel adds in the same way.

Shapes: N examples, C input channels, O output channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lessen.core.contracts import Context
from lessen.core.data import call, map_inputs
from lessen.operations.parts.values import Values, write_value
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.surgery.calls import trace
from lessen.surgery.copying import copy_network
from lessen.surgery.fold import foldable
from lessen.surgery.modules import get_module, get_tensor
from lessen.surgery.taps import Tap, capture

Reader = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def carried_means(model: nn.Module, plan: PrunedChannels, context: Context) -> tuple[Values, dict[str, str]]:
    """The values of the tensors that carry what removed channels add, and of the readers that have none, why.

    Args:
        model: The network, not pruned.
        plan: What is removed from it.
        context: Means are over its calibration examples, or over the example inputs where there are none.
    """
    readers, left = readers_of(model, plan, trace(model, context.inputs).times)
    means = input_means(model, list(readers), context)
    pairs = dict(reversed(foldable(model, context.inputs)))  # of several normalisations in a row the first
    values: Values = {}
    for path, layer in readers.items():
        weight = layer.weight.detach().double().cpu()
        stays = plan.masks(f"{path}.weight")
        kept_O = stays.get(0, torch.ones(weight.shape[0], dtype=torch.bool))
        added_O = weight.flatten(2).sum(2) if weight.ndim > 2 else weight
        added_O = added_O[:, ~stays[1]] @ means[path][~stays[1]]
        if layer.bias is not None:
            name, sign = f"{path}.bias", 1.0
        elif path in pairs:
            name, sign = f"{pairs[path]}.running_mean", -1.0
        else:
            left[path] = "it has no bias, and no batch normalisation follows it directly"
            continue
        carrier = get_tensor(model, name)
        values[name] = write_value((carrier.detach().double().cpu() + sign * added_O)[kept_O].to(carrier.dtype))
    return values, left


def input_means(model: nn.Module, paths: Sequence[str], context: Context) -> dict[str, Tensor]:
    """The mean of each input channel of some layers over examples and positions, (C,), float64."""
    network = copy_network(model).eval().to(context.device)
    taps = [Tap(path=path, side="input") for path in paths]
    total: dict[str, Tensor] = {}
    count: dict[str, int] = {}
    for inputs in [batch.inputs for batch in context.calibration] or [context.inputs]:
        with torch.no_grad(), capture(network, taps) as seen:
            call(network, map_inputs(inputs, lambda value: value.to(context.device)))
        for tap in taps:
            axis = -1 if isinstance(get_module(model, tap.path), nn.Linear) else 1
            rows = seen[tap].double().movedim(axis, -1).flatten(0, -2).cpu()
            total[tap.path] = total.get(tap.path, 0) + rows.sum(0)
            count[tap.path] = count.get(tap.path, 0) + len(rows)
    return {path: total[path] / count[path] for path in paths}


def readers_of(
    model: nn.Module, plan: PrunedChannels, times: Mapping[str, int]
) -> tuple[Mapping[str, Reader], dict[str, str]]:
    """The layers that read what a plan removes from, each called once; and those others that do, why not.

    Args:
        model: The network, not pruned.
        plan: What is removed from it.
        times: How often each module is called, by its path (`Trace.times`).
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    readers: dict[str, Reader] = {}
    left: dict[str, str] = {}
    for name in plan.consumed:
        path, _, last = name.rpartition(".")
        layer = modules.get(path)
        if 1 not in plan.masks(name):
            continue
        if not isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) or last != "weight":
            left[path] = "it is no plain linear layer or convolution"
        elif isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.groups > 1:
            left[path] = "its channels are grouped"
        elif times.get(path) != 1:
            left[path] = f"it is called {times.get(path, 0)} times, not once"
        else:
            readers[path] = layer
    return readers, left
