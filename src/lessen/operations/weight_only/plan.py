"""What weight-only quantization decided: which weights are codes, of how many bits, and which codes."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import settings
from lessen.core.errors import NetworkError, PlanError
from lessen.operations.parts.values import read_value, write_value
from lessen.surgery.forms.codes import Coded, code_parameter, file_bits
from lessen.surgery.forms.places import Owners
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain_copy


@settings
class QuantizedWeights:
    """The plan of `QuantizeWeights`.

    Args:
        bits: Of a code; 32 where there are none.
        widths: For each weight that has other bits, by name, these.
        groups: For each weight, by name, how many of a row share a step.
        shapes: The shape of each weight.
        scaled: Weights whose columns are multiplied by numbers of their own.
        values: Codes, steps and zeros; None if they are stored in the weights next to the plan.
        left: What was left alone, and why.
    """

    bits: Annotated[int, Field(ge=1, le=8)] | Literal[32]
    widths: dict[str, Annotated[int, Field(ge=1, le=8)]] = Field(default_factory=dict)
    groups: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    scaled: tuple[str, ...] = ()
    values: dict[str, str] | None = None
    left: dict[str, str] = Field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network whose weights are codes; what is left to train of them are their steps.

        Raises:
            PlanError: a weight is missing, of another shape, or in codes already.
        """
        network = plain_copy(model)
        owners = Owners(network)
        for name, group in self.groups.items():
            path, _, last = name.rpartition(".")
            try:
                module = get_module(network, path)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network. {error}") from error
            tensor, shape = getattr(module, last, None), self.shapes.get(name, ())
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "no such parameter"
                raise PlanError(f"The plan does not belong to this network: {name} should be {shape}, found {found}.")
            coded = _empty(shape, group, scaled=name in self.scaled, like=tensor)
            if values:
                coded = self._coded(name, coded)
            try:
                code_parameter(owners, module, last, coded, bits=self.widths.get(name, self.bits))
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network: {error}") from error
        return network

    def _coded(self, name: str, empty: Coded) -> Coded:
        """The codes of a weight, in the place of empty ones of the same shapes."""
        if self.values is None:
            raise PlanError(
                "The codes of this plan are stored in the weights next to it. Load these (lessen.load), or make the "
                "plan again."
            )
        made: dict[str, Any] = {}
        for kind in ("codes", "steps", "zeros", "columns"):
            old = getattr(empty, kind)
            if old is not None:
                new = read_value(self.values.get(f"{name}.{kind}", ""))
                if new.shape != old.shape:
                    raise PlanError(f"{name}.{kind} in the plan is {tuple(new.shape)}, expected {tuple(old.shape)}.")
                made[kind] = new.to(old.device, old.dtype)
        return dataclasses.replace(empty, **made)

    def describe(self) -> list[dict[str, Any]]:
        """One row for each weight."""
        rows: list[dict[str, Any]] = []
        for name, group in self.groups.items():
            columns, bits = ", columns scaled" if name in self.scaled else "", self.widths.get(name, self.bits)
            width = file_bits(bits)
            stored = "" if width == bits else f" ({width} in a file that runs)"
            rows.append(
                {
                    "module": name,
                    "edit": "weights as integer codes",
                    "before": f"{math.prod(self.shapes[name])} weights of 32 bits",
                    "after": f"{bits} bits{stored}, a step for each {group}{columns}",
                    "stored": str(width),
                }
            )
        rows += [{"module": name, "edit": "left alone", "before": why, "after": ""} for name, why in self.left.items()]
        return rows


def values_of(name: str, coded: Coded) -> dict[str, str]:
    """The tensors of one coded weight as text, by the names they have in a state."""
    columns = {} if coded.columns is None else {f"{name}.columns": write_value(coded.columns.float())}
    made = {"codes": coded.codes, "steps": coded.steps, "zeros": coded.zeros}
    return {f"{name}.{kind}": write_value(tensor) for kind, tensor in made.items()} | columns


def _empty(shape: tuple[int, ...], group: int, *, scaled: bool, like: Tensor) -> Coded:
    rows, inputs = shape[0], math.prod(shape[1:])
    groups, place = -(-inputs // group), like.device
    return Coded(
        codes=torch.zeros(rows, inputs, dtype=torch.uint8, device=place),
        steps=torch.ones(rows, groups, dtype=like.dtype, device=place),
        zeros=torch.zeros(rows, groups, dtype=torch.uint8, device=place),
        group=group,
        columns=torch.ones(inputs, device=place) if scaled else None,
    )
