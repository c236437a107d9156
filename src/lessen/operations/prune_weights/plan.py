"""What pruning of single weights decided: the mask of each parameter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field
from torch import Tensor, nn

from lessen.core import settings
from lessen.core.errors import NetworkError, PlanError
from lessen.operations.parts.packed import pack, unpack
from lessen.surgery.forms.mask import mask_of, mask_parameter, masked_parameters
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import stored
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain_copy


@settings
class PrunedWeights:
    """The plan of `PruneWeights`, and what is written of a training that pruned.

    Args:
        masks: The packed mask of each parameter.
        shapes: The shape of each parameter.
        left: What was left alone, and why.
    """

    masks: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    left: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def of(cls, masks: Mapping[str, Tensor], left: Mapping[str, str] | None = None) -> Self:
        """The plan of these masks, by the name of the parameter; one that keeps everything is left out."""
        some = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        return cls(
            masks={name: pack(mask) for name, mask in some.items()},
            shapes={name: tuple(mask.shape) for name, mask in some.items()},
            left=dict(left or {}),
        )

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network with masks on its parameters and zeros in them.

        Raises:
            PlanError: a parameter is missing, or of another shape.
        """
        network = plain_copy(model)
        owners = Owners(network)
        for name, text in self.masks.items():
            shape = self.shapes.get(name, ())
            path, _, last = name.rpartition(".")
            try:
                module = get_module(network, path)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network. {error}") from error
            tensor = getattr(module, last, None)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "no such parameter"
                raise PlanError(f"The plan does not belong to this network: {name} should be {shape}, found {found}.")
            mask = unpack(text, shape)
            try:
                for _, owner, its_name in owners.of(stored(module, last)):
                    mask_parameter(owner, its_name, mask)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network: {error}") from error
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each parameter."""
        rows: list[dict[str, Any]] = []
        for name, text in self.masks.items():
            shape = self.shapes[name]
            kept, total = int(unpack(text, shape).sum()), math.prod(shape)
            rows.append(
                {
                    "module": name,
                    "edit": "prune weights",
                    "before": f"{total} weights",
                    "after": f"{kept} weights ({100 * kept / total:.1f} %)",
                }
            )
        rows += [{"module": name, "edit": "left alone", "before": why, "after": ""} for name, why in self.left.items()]
        return rows


def masks_of(model: nn.Module) -> PrunedWeights:
    """The masks that a network carries now, as the plan that gives them to a fresh one."""
    masks: dict[str, Tensor] = {}
    seen: set[int] = set()
    for path, module, last in masked_parameters(model):
        mask, tensor = mask_of(module, last), stored(module, last)
        if mask is not None and id(tensor) not in seen:
            seen.add(id(tensor))
            masks[f"{path}.{last}" if path else last] = mask.kept
    return PrunedWeights.of(masks)
