"""Several nodes as one: of their outputs, or of what they have at a tap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, ClassVar

import torch
from torch import nn

from lessen.core.errors import GraphError
from lessen.core.seeds import seeded
from lessen.core.settings import named_fields
from lessen.graph.members import Mean, Members
from lessen.graph.nodes.node import WHOLE, Node, find
from lessen.graph.nodes.unit import Making, Now, Unit
from lessen.surgery.taps import Address, Tap, each_tap, reader
from lessen.surgery.values import map_values


@named_fields
class Ensemble(Node):
    """One output made of the outputs of several nodes, or of what else `combine` reads of them.

    Args:
        name: What edges call it.
        of: The nodes it is made of.
        combine: How.
        to_members: Whether gradient of the edges that arrive at the ensemble flows on to its members.
    """

    name: str
    of: Sequence[str]
    combine: Members = field(default_factory=Mean)
    to_members: bool = False

    has_layers: ClassVar[bool] = False

    @property
    def parts(self) -> Sequence[nn.Module]:
        return (self.combine,) if isinstance(self.combine, nn.Module) else ()

    @property
    def made_of(self) -> Sequence[str]:
        return self.of

    @property
    def members(self) -> Sequence[str]:
        return self.of if WHOLE in self.taps else ()

    @property
    def taps(self) -> Sequence[Tap]:
        """Where each member is read."""
        return each_tap(_where(self.combine))

    @property
    def learns_with(self) -> Sequence[str]:
        return self.of if self.to_members else ()

    def can_learn(self) -> bool:
        return self.to_members or bool(getattr(self.combine, "learns", False))

    def check(self, nodes: Mapping[str, Node]) -> None:
        if not self.of:
            raise GraphError(f"The ensemble {self.name!r} has no members. Name at least one node.")
        for member in self.of:
            found = find(member, nodes, f"the ensemble {self.name!r}", lambda node: node.has_output, "a network")
            if not found.has_layers and set(self.taps) != {WHOLE}:
                raise GraphError(
                    f"The ensemble {self.name!r} taps {str(_where(self.combine))!r} in its member {member!r}, "
                    "which has no layers. Leave the member out."
                )
            if found.members and self.name in _inside(found, nodes, ()):
                raise GraphError(f"The ensembles {self.name!r} and {member!r} contain each other.")

    def check_arriving(self, edge: str, nodes: Mapping[str, Node]) -> None:
        if self.to_members and not any(nodes[name].can_learn() for name in self.of):
            raise GraphError(
                f"The edge {edge} sends gradient to the members of {self.name!r}, none of which can learn."
            )

    def taps_in(self, name: str) -> Sequence[Tap]:
        return self.taps if name in self.of else ()

    def unit(self, making: Making) -> Unit:
        return EnsembleUnit(self)

    def drawn(self, short: Any) -> dict[str, Any]:
        return {"of": list(self.of), "combine": short(self.combine)}


def _where(combine: Members) -> Address:
    """Where a way to combine reads the members."""
    where: Address = getattr(combine, "taps", WHOLE)
    return where


def _inside(node: Node, nodes: Mapping[str, Node], seen: tuple[str, ...]) -> set[str]:
    found = set(node.members)
    for name in node.members:
        member = nodes.get(name)
        if member is not None and member.members and name not in seen:
            found |= _inside(member, nodes, (*seen, name))
    return found


class EnsembleUnit(Unit):
    """One output made of several; unless asked, its members are cut off, and only a gate of its own learns."""

    kind = "ensemble"

    def __init__(self, node: Ensemble) -> None:
        self.name = node.name
        self.node = node
        self.of = tuple(node.of)
        self._read = reader(_where(node.combine))

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        shapes = [map_values(lambda leaf: leaf.shape, self._read(now.values[name])) for name in self.of]
        with seeded(seed, "ensemble", self.name):
            self.module = self.node.combine.build(shapes).to(device).eval()
        self.compute(now)

    def compute(self, now: Now) -> None:
        assert self.module is not None
        outputs = [self._read(now.values[name]) for name in self.of]
        if not self.node.to_members:
            outputs = [map_values(torch.Tensor.detach, output) for output in outputs]
        now.values[self.name] = {WHOLE: self.module(outputs)}
