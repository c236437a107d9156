"""What of a network must be stored: its state, where the network itself sees less than the state says, made simpler.

Weights that a network only ever sees rounded may be stored rounded; which weights these are is read from the modules
of the network, not from what was done to it. `load_state_dict` with what comes out gives the same outputs, bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lessen.operations.quantize.fake import quantize_weight, weight_scale
from lessen.operations.quantize.grids import Grid as StepGrid
from lessen.operations.quantize.grids import Grids, WeightGrid
from lessen.operations.quantize.network import GRIDS, computes_in_integers, limit_at, recurrent_weights
from lessen.operations.quantize.stepped import positive
from lessen.operations.quantize.target import stored_bits
from lessen.surgery.attention import OpenAttention
from lessen.surgery.forms.base import is_list, parametrised, stored
from lessen.surgery.forms.codes import coded_parameters, codes_of, file_bits
from lessen.surgery.forms.half import short_of, short_parameters
from lessen.surgery.forms.mask import mask_of
from lessen.surgery.packing import Behind, Grid, Known

_SHORT = 16
"""Bits of a parameter that is seen in half precision."""


def stored_state(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Known]]:
    """The tensors of a network as they are to be stored, and what is known of them, by their names in its state."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    known = {name: Known(kept=kept) for name, kept in masks(model)}
    for path, _, last, codes in coded_parameters(model):
        name = _joined(path, last)
        known[f"{name}.codes"] = Known(behind=Behind(name=f"{name}.zeros", group=codes.group))
    for path, _, last, short in short_parameters(model):
        state[_joined(path, last)] = short(state[_joined(path, last)])
    for name, rounding in _roundings(model).items():
        if name not in state:
            continue
        simpler = rounding.grid.round(state[name])
        if torch.equal(rounding.seen(simpler), rounding.seen(state[name])):
            state[name] = simpler
            known[name] = dataclasses.replace(known.get(name, Known()), grid=rounding.grid)
    return state, known


def file_widths(model: nn.Module) -> dict[str, int]:
    """The bits of a number of each parameter in an ONNX or OpenVINO file of the network, by name; tied ones by each."""
    found: dict[str, int] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        if is_list(module) or isinstance(module, Grids | StepGrid | WeightGrid):
            continue
        limit, layer = limit_at(model, path), dict(_weights(module))
        for last in [*module._parameters, *parametrised(module)]:
            tensor = getattr(module, last)
            if tensor is None:
                continue
            widths, codes = [8 * tensor.element_size()], codes_of(module, last)
            if codes is not None:
                widths.append(file_bits(codes.bits))
            if short_of(module, last) is not None and not (last == "bias" and computes_in_integers(model, path)):
                widths.append(_SHORT)
            if limit is not None and (last in layer if layer else tensor.ndim > 1):
                widths.append(stored_bits(limit.bit_length() + 1))
            found[_joined(path, last)] = min(widths)
    return found


def said_anew(rows: Sequence[Mapping[str, str]], model: nn.Module, *, by: str) -> list[dict[str, str]]:
    """What plans say is stored, once a later operation has changed the network: true of the files that are written.

    A row whose parameter now takes other bits says so, and since when; one whose parameter is gone claims nothing.

    Args:
        rows: Of plans (`Plan.describe`); they are not changed.
        model: The network as it is now.
        by: The later operation, for people.
    """
    widths, said = file_widths(model), list[dict[str, str]]()
    for row in map(dict, rows):
        if "stored" in row:
            name = row["module"]
            own = [bits for key, bits in widths.items() if key.rpartition(".")[0] == name and not key.endswith("bias")]
            now = widths.get(name, min(own, default=None))
            if now is None:
                del row["stored"]
                row["after"] += f"; replaced by {by}"
            elif str(now) != row["stored"]:
                row["stored"] = str(now)
                row["after"] += f"; {now} bits in a file since {by}"
        said.append(row)
    return said


def masks(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The mask of each masked parameter, under every name that the parameter has in the state."""
    for path, module in model.named_modules(remove_duplicate=False):
        for last in parametrised(module):
            mask = mask_of(module, last)
            if mask is not None:
                yield _joined(path, last), mask.kept


def put_masks(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Give the masks of a network the places that were stored, in place."""
    for path, module in model.named_modules():
        for last in parametrised(module):
            mask, name = mask_of(module, last), _joined(path, last)
            if mask is not None and name in kept:
                mask.kept = kept[name].to(mask.kept.device)


@dataclass(frozen=True)
class _Rounding:
    """How a weight is rounded.

    Args:
        grid: Where to.
        seen: From the weight to what the network multiplies by.
    """

    grid: Grid
    seen: Callable[[Tensor], Tensor]

    def equals(self, other: _Rounding | None) -> bool:
        """Whether another one rounds to the same."""
        if other is None or (self.grid.axis, self.grid.limit, self.grid.ends) != (
            other.grid.axis,
            other.grid.limit,
            other.grid.ends,
        ):
            return False
        return torch.equal(self.grid.scale, other.grid.scale)


def _roundings(model: nn.Module) -> dict[str, _Rounding]:
    """The rounding of each weight that is rounded, and in one way, wherever it occurs: by every name in the state."""
    places: dict[int, list[tuple[str, _Rounding | None]]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for last, axis in _weights(module):
            rounding = _rounding(model, path, getattr(module, last).detach(), axis)
            places.setdefault(id(stored(module, last)), []).append((_joined(path, last), rounding))
    roundings = {}
    for same in places.values():
        first = same[0][1]
        if first is not None and all(first.equals(other) for _, other in same):
            roundings.update({name: first for name, _ in same})
    return roundings


def _rounding(model: nn.Module, path: str, weight: Tensor, axis: int) -> _Rounding | None:
    """How the weight at a path is rounded, if a quantized network around it does so."""
    if weight.dtype not in {torch.float32, torch.float64} or not bool(weight.any()):
        return None
    parts = path.split(".") if path else []
    for count in range(len(parts) + 1):
        grids = getattr(model.get_submodule(".".join(parts[:count])), GRIDS, None)
        inner = ".".join(parts[count:])
        if not isinstance(grids, Grids) or (limit := grids.limit(inner)) is None:
            continue
        own = grids.of_weights(inner)
        if own is not None and own.fits(weight, axis):
            grid = Grid(axis=axis, limit=own.limit, scale=positive(own.step.detach()), ends=False)
            return _Rounding(grid, functools.partial(own.round, axis=axis))
        grid = Grid(axis=axis, limit=limit, scale=weight_scale(weight, limit=1, axis=axis), ends=True)
        return _Rounding(grid, functools.partial(quantize_weight, limit=limit, axis=axis))
    return None


def _weights(module: nn.Module) -> list[tuple[str, int]]:
    """The parameters of a layer that are rounded, and the axis of their output channels."""
    if isinstance(module, nn.MultiheadAttention | OpenAttention):
        return [] if module.in_proj_weight is None else [("in_proj_weight", 0)]
    if isinstance(module, nn.Linear | _ConvNd):
        return [("weight", int(isinstance(module, _ConvTransposeNd)))]
    return [(name, 0) for name in recurrent_weights(module)] if isinstance(module, nn.LSTM) else []


def _joined(path: str, last: str) -> str:
    return f"{path}.{last}" if path else last
