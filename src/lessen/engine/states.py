"""The state of any torch optimizer as named tensors and JSON data, and back, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lessen.core.errors import RunError


def state_of_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What an optimizer remembers: its tensors by name ("0/exp_avg"), and all else as JSON data.

    Numbers that it keeps in its groups belong to it as well, since some optimizers count there.

    Raises:
        RunError: it remembers something that is neither a tensor nor plain data.
    """
    tensors: dict[str, Tensor] = {}
    kind = type(optimizer).__name__
    numbers = {parameter: number for number, parameter in enumerate(_parameters(optimizer))}
    state = {str(numbers.get(key, key)): value for key, value in optimizer.state.items()}
    rest = {name: _without(value, name, tensors, kind) for name, value in state.items()}
    groups = [
        {n: value for n, value in group.items() if isinstance(value, int | float | Tensor) and type(value) is not bool}
        for group in optimizer.param_groups
    ]
    told = [_without(group, f"group{number}", tensors, kind) for number, group in enumerate(groups)]
    on = {str(number): parameter.device.type for parameter, number in numbers.items()}
    cpu = [name for name, value in tensors.items() if value.device.type == "cpu" != on.get(name.partition("/")[0])]
    return tensors, {"state": rest, "groups": told, "cpu": cpu}


@torch.no_grad()
def put_back(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Let an optimizer remember what `state_of_optimizer` gave.

    Torch's own loading casts state to the type of the parameters; here each tensor keeps its own.
    """
    parameters = _parameters(optimizer)
    held: dict[str, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        part, _, path = name.partition("/")
        numbered = part.isdigit() and name not in rest["cpu"]
        # The optimizer moves it in place, so it is copied.
        held.setdefault(part, {})[path] = value.to(
            parameters[int(part)].device if numbered else value.device, copy=True
        )
    optimizer.state.clear()
    for part, told in rest["state"].items():
        if found := _with(told, held.get(part, {})):
            optimizer.state[parameters[int(part)] if part.isdigit() else part] = found
    for number, group in enumerate(optimizer.param_groups):
        group.update(_with(rest["groups"][number], held.get(f"group{number}", {})))


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _without(value: Any, path: str, tensors: dict[str, Tensor], kind: str) -> Any:
    """Plain data without its tensors, which are put into `tensors`."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path.partition("/")[2]}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {"map": {name: _without(item, f"{path}/{name}", tensors, kind) for name, item in value.items()}}
    if isinstance(value, list | tuple):
        items = [_without(item, f"{path}/{number}", tensors, kind) for number, item in enumerate(value)]
        return {type(value).__name__: items}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise RunError(
        f"The optimizer {kind} remembers a {type(value).__name__}, which cannot be stored in a checkpoint. Run without "
        "a folder, or keep tensors and numbers only."
    )


def _with(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The reverse of `_without`."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors.get(inner)
    if kind == "map":
        return {name: _with(item, tensors) for name, item in inner.items() if not _lost(item, tensors)}
    if kind == "float":
        return float(inner)
    items = [_with(item, tensors) for item in inner]
    return tuple(items) if kind == "tuple" else items


def _lost(value: Any, tensors: Mapping[str, Tensor]) -> bool:
    return isinstance(value, dict) and "tensor" in value and value["tensor"] not in tensors
