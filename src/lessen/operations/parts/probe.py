"""The layers that are only called and not otherwise used, found by one pass with a probe in place of each.

Attention reads `out_proj.weight` without calling the layer, and transformer layers read the weights of theirs on a fast
path: such a layer cannot be replaced by something that only computes the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from lessen.core import Inputs
from lessen.core.data import call, map_inputs
from lessen.surgery.copying import copy_network
from lessen.surgery.modules import set_modules


class _Probe(nn.Module):
    """Replaces a layer during one pass, and records whether it is called and which of its attributes are read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.__dict__["layer"] = layer
        self.__dict__["called"] = False
        self.__dict__["read"] = set()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["called"] = True
        return self.__dict__["layer"](*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        self.__dict__["read"].add(name)
        return getattr(self.__dict__["layer"], name)


def irreplaceable(model: nn.Module, kinds: tuple[type[nn.Module], ...], inputs: Inputs) -> dict[str, str]:
    """The layers of exactly these types that must stay as they are, by path, and why."""
    network = copy_network(model).eval()
    probes: dict[str, _Probe] = {}
    for path, layer in list(network.named_modules()):
        if path and type(layer) in kinds:
            probes[path] = _Probe(layer)
    set_modules(network, probes)
    place = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    with torch.no_grad():
        call(network, map_inputs(inputs, lambda value: value.to(place)))
    found = {}
    for path, probe in probes.items():
        if probe.read:
            found[path] = f"its {sorted(probe.read)[0]} is read from outside"
        elif not probe.called:
            found[path] = "it is not called on the example inputs"
    return found
