"""Groups of channels that go together, and what a network costs when some of their indices are gone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from lessen.surgery.coupling.formula import Formula, size


@dataclass(frozen=True)
class Member:
    """One axis of a parameter or buffer that loses indices with a group.

    Args:
        tensor: Name of the parameter or buffer.
        dim: Which of its axes.
        layout: How that axis is made of groups.
        consumes: Whether a product sums over the axis (the input side of a weight).
        weight: Whether it is a weight or bias of a product or convolution.
    """

    tensor: str
    dim: int
    layout: Formula
    consumes: bool
    weight: bool


@dataclass(frozen=True)
class Group:
    """Indices that can be removed together.

    Args:
        name: After the first module that makes them.
        size: How many there are.
        members: Where they stand.
        number: Which of the free atoms of the network it is; the same in every analysis of the network.
        blocks: Whether each index is a block of another axis that could be cut instead.
    """

    name: str
    size: int
    members: tuple[Member, ...]
    number: int
    blocks: bool


@dataclass(frozen=True)
class Number:
    """An attribute, or a number somewhere in the attributes of the modules, that is the size of an axis.

    Args:
        modules: Paths of the modules that were running, outer to inner.
        attribute: The attribute known to hold it, or None.
        value: Its size now.
        layout: What it is the size of.
    """

    modules: tuple[str, ...]
    attribute: str | None
    value: int
    layout: Formula


@dataclass(frozen=True)
class Coupling:
    """What can be removed from a network, together with what.

    Args:
        groups: By name, in the network's order.
        layouts: For each parameter and buffer, the layout of each axis.
        pinned: (name of a parameter, axis) -> why nothing can be removed there.
        numbers: Numbers in the network's own code that are sizes.
        products: For each product or convolution, the layouts whose sizes multiply to its multiply-adds.
        normalised: Names of the weights of normalisations that average over what a group can remove.
        averaged: Calls that reduce over what a group can remove, by their sites (`surgery.calls`): the layout of each
            axis of what they are given.
        weights: Names of the weights and biases of products and convolutions.
    """

    groups: dict[str, Group]
    layouts: dict[str, tuple[Formula, ...]]
    pinned: dict[tuple[str, int], str]
    numbers: tuple[Number, ...]
    products: tuple[tuple[Formula, ...], ...]
    normalised: frozenset[str]
    averaged: dict[str, tuple[Formula, ...]]
    weights: frozenset[str]

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each group."""
        return {name: group.size for name, group in self.groups.items()}


def multiply_adds(coupling: Coupling, kept: Mapping[str, int]) -> int:
    """How many multiply-adds the example inputs cost when the groups keep this many indices."""
    sizes = {**coupling.sizes, **kept}
    return sum(math.prod(size(layout, sizes) for layout in layouts) for layouts in coupling.products)


def parameter_count(coupling: Coupling, model: nn.Module, kept: Mapping[str, int]) -> int:
    """How many parameters are left when the groups keep this many indices."""
    sizes = {**coupling.sizes, **kept}
    total = 0
    for name, parameter in model.named_parameters():
        layouts = coupling.layouts.get(name)
        total += parameter.numel() if layouts is None else math.prod(size(layout, sizes) for layout in layouts)
    return total
