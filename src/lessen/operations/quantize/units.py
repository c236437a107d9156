"""What of a network has its rounding learned at once: a layer, or a block of layers whose branches are joined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lessen.core.data import Inputs
from lessen.core.where import matches
from lessen.operations.quantize.edges import JOINS
from lessen.operations.quantize.grids import Grids
from lessen.operations.quantize.network import GRIDS
from lessen.operations.quantize.observing import own_parameters
from lessen.operations.quantize.rounding import Learning
from lessen.surgery.calls import Call, Trace
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import stored
from lessen.surgery.modules import get_module

_CLIPS = {"relu": (0.0, None), "relu6": (0.0, 6.0)}


@dataclass(frozen=True)
class ReconstructionUnit:
    """What is learned at once.

    Args:
        path: The module whose output is to stay.
        layers: The layers in it.
        clip: What follows it at once clamps to this range, so that errors outside count for nothing.
    """

    path: str
    layers: tuple[str, ...]
    clip: tuple[float | None, float | None] = (None, None)

    @property
    def weights(self) -> list[str]:
        """The names of the weights of its layers."""
        return [f"{layer}.weight" if layer else "weight" for layer in self.layers]


def units_of(model: nn.Module, seen: Trace, layers: Sequence[str], rounding: Learning) -> list[ReconstructionUnit]:
    """The units that these layers fall into, in the order in which they run."""
    joined = {one.path for one in seen.calls if one.op in JOINS and len(one.inputs) > 1} - {""}
    members: dict[str, list[str]] = {}
    for layer in layers:
        members.setdefault(_block(model, seen, layer, joined, rounding), []).append(layer)
    clips = _Clips(model, seen)
    return [ReconstructionUnit(path, tuple(found), clips.behind(path)) for path, found in members.items()]


def _block(model: nn.Module, seen: Trace, layer: str, joined: set[str], rounding: Learning) -> str:
    """The innermost block that holds a layer, or the layer."""
    path = layer
    while rounding.joint and (path := path.rpartition(".")[0]):
        named = rounding.blocks is not None
        fits = matches(rounding.blocks, path, get_module(model, path)) if named else path in joined
        if fits and seen.times[path] == 1:
            return path
    return layer


def clamped(value: Tensor, clip: tuple[float | None, float | None]) -> Tensor:
    """A value as it is behind the clip."""
    return value if clip == (None, None) else value.clamp(*clip)


class _Clips:
    """What clamps the outputs of modules at once behind them."""

    def __init__(self, model: nn.Module, seen: Trace) -> None:
        self._model, self._outputs, self._readers = model, set(seen.outputs), seen.consumers()
        self._calls: dict[str, list[Call]] = {}
        for one in seen.calls:
            self._calls.setdefault(one.site, []).append(one)

    def behind(self, path: str) -> tuple[float | None, float | None]:
        """The range that what a module gives is clamped to."""
        for one in self._calls.get(path, ()):
            if one.outputs[0] not in self._outputs:
                readers = self._readers.get(one.outputs[0], [])
                if len(readers) != 1:
                    return None, None
                module = get_module(self._model, readers[0].path)
                if readers[0].op == "hardtanh" and isinstance(module, nn.Hardtanh):  # nn.ReLU6 is one
                    return module.min_val, module.max_val
                return _CLIPS.get(readers[0].op, (None, None))
        return None, None


def free_layers(full: nn.Module, inputs: Inputs, seen: Trace, work: nn.Module) -> tuple[list[str], dict[str, str]]:
    """The layers whose weights may be rounded as one likes, in the order in which they run; why the others may not."""
    grids: Grids = getattr(work, GRIDS)
    own, owners = own_parameters(full, inputs), Owners(full)
    layers: list[str] = []
    left: dict[str, str] = {}
    for path in dict.fromkeys(one.path for one in seen.calls):
        grid, layer = grids.of_weights(path), get_module(full, path)
        if grid is None:
            continue
        if not isinstance(layer, _ConvNd | nn.Linear) or "weight" not in own.get(path, ()):
            left[path] = "it changes its weight before use: the result is rounded to nearest"
        elif seen.times[path] != 1:
            left[path] = f"it is called {seen.times[path]} times: its weights are rounded to the nearest"
        elif len(owners.of(stored(layer, "weight"))) > 1:
            left[path] = "its weight is also that of another layer: it is rounded to the nearest"
        else:
            layers.append(path)
    return layers, left
