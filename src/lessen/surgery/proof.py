"""Proof by running: does a changed network still give what it gave?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lessen.core.data import Inputs, call, map_inputs
from lessen.core.seeds import generator
from lessen.surgery.calls import floating
from lessen.surgery.copying import copy_network

T = TypeVar("T")
EXACT, CLOSE = 1e-9, 1e-4
"""How far outputs may be apart, as a share of the largest, in float64 and where a network does not run in float64."""


class Proof:
    """The outputs of a network, in float64 if it runs there, to compare those of changed copies with.

    Inputs whose numbers are all equal, as zeros, are replaced by random ones: a convolution of zeros gives its bias,
    whatever its weight. If the network does not run on those, the given ones are used.

    Args:
        model: The network; it is not changed.
        inputs: What it is run on.
    """

    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        draw = generator(0, "proof")
        varied = map_inputs(inputs, lambda value: _varied(value, draw))
        try:
            self._run(copy_network(model).double(), _doubled(varied), given=_doubled(inputs))
            self.tolerance = EXACT
        except (RuntimeError, TypeError):  # it insists on a type of its own, or the device has no float64
            self._run(copy_network(model), varied, given=inputs)
            self.tolerance = CLOSE

    def _run(self, model: nn.Module, varied: Inputs, *, given: Inputs) -> None:
        self.model, self.inputs = model.eval(), varied
        try:
            self._wanted = outputs_of(model, varied)
        except (RuntimeError, TypeError, ValueError, IndexError):
            self.inputs = given
            self._wanted = outputs_of(model, given)

    def holds(self, changed: nn.Module) -> bool:
        """Whether a changed copy of `self.model` runs and gives the same outputs."""
        try:
            found = outputs_of(changed, self.inputs)
        except (RuntimeError, TypeError, ValueError):
            return False
        return len(found) == len(self._wanted) and all(map(self._agree, found, self._wanted))

    def _agree(self, found: Tensor, wanted: Tensor) -> bool:
        if found.shape != wanted.shape:
            return False
        largest = float(wanted[wanted.isfinite()].abs().max()) if bool(wanted.isfinite().any()) else 0.0
        return torch.allclose(found, wanted, rtol=0.0, atol=self.tolerance * largest, equal_nan=True)


def _doubled(inputs: Inputs) -> Inputs:
    return map_inputs(inputs, lambda value: value.double() if value.is_floating_point() else value)


def _varied(value: Tensor, draw: torch.Generator) -> Tensor:
    """The value, or random numbers in [0, 1) where it has only one number, many times."""
    if not value.is_floating_point() or value.numel() < 2 or not bool((value == value.flatten()[0]).all()):
        return value
    return torch.rand(value.shape, generator=draw).to(value)


def outputs_of(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """The floating tensors that a network gives, in order."""
    with torch.no_grad():
        return list(floating(call(model, inputs)))


def those_that_hold(changes: Sequence[T], holds: Callable[[Sequence[T]], Any]) -> list[T]:
    """The changes that can be made, found by halving: one trial where all can, log2(n) for each that cannot.

    >>> those_that_hold([1, 2, 3, 4], lambda some: 3 not in some)
    [1, 2, 4]
    """
    if not changes or holds(changes):
        return list(changes)
    if len(changes) == 1:
        return []
    half = len(changes) // 2
    return [*those_that_hold(changes[:half], holds), *those_that_hold(changes[half:], holds)]
