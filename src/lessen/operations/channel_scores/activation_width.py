"""Channels, neurons and heads that are little used: the size of what the next layers read.

Muralidharan et al., Compact language models via pruning and knowledge distillation (Minitron), NeurIPS 2024,
arXiv:2407.14679, section 2.2: mean over the batch, L2 over the sequence.

Shapes: N examples, P positions, G indices of a group.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lessen.core import Context, settings
from lessen.core.data import call
from lessen.core.errors import PlanError
from lessen.surgery.calls import trace
from lessen.surgery.copying import copy_network
from lessen.surgery.coupling import Coupling, owners
from lessen.surgery.modules import get_module
from lessen.surgery.taps import Tap, capture


@settings
class ActivationWidth:
    """Channels with large activations matter: for each example the L2 norm over positions, then the mean over examples.

    Activations are those that the layers which use the channel read; of a head, the norm over its features. Added over
    these layers. It needs calibration examples without labels, and no gradients. Groups that no linear layer or
    convolution reads are left alone.
    """

    comparable: ClassVar[bool] = False

    def figures(self, model: nn.Module, coupling: Coupling, context: Context) -> dict[str, Tensor]:
        """The mean over examples, added over the layers that read the group.

        Raises:
            PlanError: the context has no calibration batches.
        """
        if not context.calibration:
            raise PlanError("ActivationWidth looks at activations, and the context has no calibration batches.")
        readers = _readers(model, coupling, context)
        total = {name: torch.zeros(coupling.sizes[name], dtype=torch.float64) for name, _ in readers}
        network = copy_network(model).eval().to(context.device)
        taps = [Tap(path=path, side="input") for path in dict.fromkeys(path for _, path in readers)]
        examples = sum(len(batch) for batch in context.calibration)
        for batch in context.calibration:
            with torch.no_grad(), capture(network, taps) as seen:
                call(network, batch.to(context.device).inputs)
            squares = {tap.path: _squares(seen[tap], get_module(model, tap.path)).cpu() for tap in taps}
            for (name, path), owner in readers.items():
                by_index = torch.zeros(len(squares[path]), len(total[name]), dtype=torch.float64)
                by_index.index_add_(1, owner[owner >= 0], squares[path][:, owner >= 0])
                total[name] += by_index.sqrt().sum(0)
        return {name: value / examples for name, value in total.items()}


def _readers(model: nn.Module, coupling: Coupling, context: Context) -> dict[tuple[str, str], Tensor]:
    """(group, path of a layer that reads it and is called once) -> which index each of its inputs belongs to, or -1."""
    times = trace(model, context.inputs).times
    found = {}
    for name, group in coupling.groups.items():
        for member in group.members:
            path, _, last = member.tensor.rpartition(".")
            if not (member.consumes and last == "weight" and times.get(path) == 1):
                continue
            layer = get_module(model, path)
            if isinstance(layer, nn.Linear) or (isinstance(layer, _ConvNd) and layer.groups == 1):
                found[name, path] = owners(member.layout, coupling.sizes, name)
    return found


def _squares(value: Tensor, layer: nn.Module) -> Tensor:
    """The sum over positions of the squares of each input channel of a layer, (N, channels), float64."""
    squared = value.detach().double().square()
    if isinstance(layer, nn.Linear):
        return squared.flatten(1, -2).sum(1) if squared.ndim > 2 else squared
    return squared.flatten(2).sum(2)
