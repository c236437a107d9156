"""What a network costs when its groups keep so many indices, as a share of the unpruned one, and which cost alike."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from lessen.core.contracts import Clock
from lessen.core.data import Inputs
from lessen.surgery.coupling import Coupling, groups_of, multiply_adds, parameter_count, size

Widths = Mapping[str, int]


def parameters_cost(coupling: Coupling, model: nn.Module, widths: Sequence[Widths]) -> list[float]:
    """The share of the parameters that is left at each of these widths."""
    whole = parameter_count(coupling, model, {})
    return [parameter_count(coupling, model, kept) / whole for kept in widths]


def multiply_adds_cost(coupling: Coupling, widths: Sequence[Widths]) -> list[float]:
    """The share of the multiply-adds that is left at each of these widths."""
    whole = multiply_adds(coupling, {})
    return [multiply_adds(coupling, kept) / whole for kept in widths]


@dataclass
class MeasuredCost:
    """The share of the time that is left, by a clock.

    Args:
        model: The unpruned network, timed beside whatever is asked for.
        pruned: Makes the network of some widths; which indices stay does not matter to a clock.
        clock: Tells the time.
        inputs: Example inputs.
        whole: Milliseconds of the unpruned network when last timed.
        note: Why times are to be taken with caution, when that was last so.
    """

    model: nn.Module
    pruned: Callable[[Widths], nn.Module]
    clock: Clock
    inputs: Inputs
    whole: float | None = None
    note: str | None = None

    def __call__(self, widths: Sequence[Widths]) -> list[float]:
        """The share at each of these widths, all timed in one run."""
        found = self.clock.times([self.model, *map(self.pruned, widths)], self.inputs)
        self.note = found.note or self.note
        whole, *times = found.milliseconds
        self.whole = whole
        return [time / whole for time in times]


def alike(coupling: Coupling, widths: Widths, name: str) -> Hashable:
    """A key of what a group costs at any width while the others have these: the sizes of the products it is part of.

    Groups with the same key (the inner channels of equal blocks, for one) cost the same at the same width.
    """
    sizes = {**coupling.sizes, **widths}
    products = sorted(
        repr([_named(layout, name, sizes) for layout in layouts])
        for layouts in coupling.products
        if any(name in groups_of(layout) for layout in layouts)
    )
    return coupling.sizes[name], sizes[name], tuple(products)


def _named(layout: Any, name: str, sizes: Mapping[str, int]) -> Any:
    """A layout with one group as "*" and the sizes of all others."""
    if name not in groups_of(layout):
        return size(layout, sizes)
    return [
        [
            "*"
            if factor == name
            else sizes[factor]
            if isinstance(factor, str)
            else _named(factor, name, sizes)
            if isinstance(factor, list)
            else factor
            for factor in term
        ]
        for term in layout
    ]
