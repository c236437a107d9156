"""Values that an operation computed from data, as text in its plan, so that a plan can be carried out by itself.

What an operation can compute again from the network alone (a mask on magnitudes, a decomposition) needs none of this.
What it learned from calibration examples (reconstructed weights, learned rounding) is gone when the planning is over,
so the plan holds it, in a field `values`: tensors by the name they have in the state. A run keeps its tensors in
`weights.safetensors` anyway, so `without_values` is what it writes to `plan.json`.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lessen.core.errors import NetworkError, PlanError
from lessen.surgery.forms.registering import parametrised
from lessen.surgery.modules import get_module

Values = dict[str, str]
"""Text by the name of the tensor; see `write_value`."""

_TYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}


def write_value(tensor: Tensor) -> str:
    """A tensor as text: type, shape, base64 of its bytes. Other types, as half precision, are widened to float32.

    >>> write_value(torch.tensor([[1.0, 2.0]]))
    'float32 1x2 AACAPwAAAEA='
    """
    wide = tensor.detach().cpu()
    if str(wide.dtype).removeprefix("torch.") not in _TYPES:
        wide = wide.float()
    name = str(wide.dtype).removeprefix("torch.")
    shape = "x".join(map(str, wide.shape)) or "-"
    return f"{name} {shape} {base64.b64encode(wide.contiguous().numpy().tobytes()).decode('ascii')}"


def read_value(text: str) -> Tensor:
    """The tensor that `write_value` wrote.

    >>> read_value("float32 1x2 AACAPwAAAEA=")
    tensor([[1., 2.]])

    Raises:
        PlanError: the text is damaged.
    """
    try:
        name, shape, body = text.split(" ")
        sizes = [] if shape == "-" else [int(size) for size in shape.split("x")]
        array = np.frombuffer(base64.b64decode(body, validate=True), name if name in _TYPES else "no such type")
        if array.size != math.prod(sizes):
            raise ValueError(f"{array.size} numbers for the shape {sizes}")
        return torch.from_numpy(array.reshape(sizes).copy())
    except (ValueError, TypeError) as error:
        raise PlanError(f"A value in the plan is damaged ({error}). Make the plan again.") from error


def put_values(network: nn.Module, values: Mapping[str, str] | None) -> None:
    """Write values into the parameters and buffers of a network, in place; masks on them hold.

    Raises:
        PlanError: there are none (they were left out of the plan), or they are of another network.
    """
    if values is None:
        raise PlanError(
            "The values of this plan are stored in the weights next to it. Load these (lessen.load), or make the plan "
            "again."
        )
    with torch.no_grad():
        for name, text in values.items():
            path, _, last = name.rpartition(".")
            try:
                module = get_module(network, path)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network. {error}") from error
            found, tensor = read_value(text), getattr(module, last, None)
            if not isinstance(tensor, Tensor) or tensor.shape != found.shape:
                here = tuple(tensor.shape) if isinstance(tensor, Tensor) else "no such tensor"
                raise PlanError(
                    f"The plan does not belong to this network: {name} should be {tuple(found.shape)}, found {here}."
                )
            new = found.to(tensor.device, tensor.dtype)
            if last in parametrised(module):
                setattr(module, last, new)
            else:
                tensor.copy_(new)


def without_values(plan: Any) -> Any:
    """The plan as a run keeps it, for `apply(values=False)`: what is stored in the weights is left out."""
    return dataclasses.replace(plan, values=None) if getattr(plan, "values", None) is not None else plan


def without_masks(plan: Any) -> Any:
    """The plan as a compressed file keeps it: masks, stored in the tensors next to it, become empty text."""
    masks = getattr(plan, "masks", None)
    return dataclasses.replace(plan, masks=dict.fromkeys(masks, "")) if isinstance(masks, dict) else plan
