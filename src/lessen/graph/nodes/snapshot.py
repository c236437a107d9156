"""A copy of a network, taken from time to time, as a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any

from lessen.core.data import View
from lessen.core.settings import named_fields
from lessen.graph.nodes.network import NetworkUnit
from lessen.graph.nodes.node import Node, find, is_network
from lessen.graph.nodes.unit import Making, Unit
from lessen.graph.when import LastEpoch, When
from lessen.surgery.copying import copy_network


@named_fields
class Snapshot(Node):
    """A frozen copy of a network, taken from time to time.

    Args:
        name: What edges call it.
        of: The network node it is a copy of.
        when: When the copy is taken.
        view: What it sees of a batch. None: what the network it copies sees.
    """

    name: str
    of: str
    when: When = field(default_factory=LastEpoch)
    view: View | None = None

    def needs(self, nodes: Mapping[str, Node]) -> Sequence[str]:
        return nodes[self.of].made_of

    def reads_batch(self, nodes: Mapping[str, Node]) -> bool:
        return nodes[self.of].reads_batch(nodes)

    def check(self, nodes: Mapping[str, Node]) -> None:
        find(self.of, nodes, f"the node {self.name!r}", is_network, "a network")

    def unit(self, making: Making) -> Unit:
        return SnapshotUnit(self, making, making.nodes[self.of])

    def drawn(self, short: Any) -> dict[str, Any]:
        return {"of": [self.of], "when": short(self.when)}


class SnapshotUnit(NetworkUnit):
    """A copy that follows its original."""

    follows = True

    def __init__(self, node: Snapshot, making: Making, of: Node) -> None:
        original = of.network
        assert original is not None
        view, reads = node.view or getattr(of, "view", None), getattr(of, "reads", None)
        super().__init__(node, making, copy_network(original).requires_grad_(False), view=view, reads=reads)
        self.when, self.original = node.when, original

    def before_step(self) -> None:
        self.when.before_step(self.module, self.original)

    def after_step(self) -> None:
        self.when.after_step(self.module, self.original)

    def after_epoch(self) -> None:
        self.when.after_epoch(self.module, self.original)
