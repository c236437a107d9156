"""A network that is not known yet: the node of a pattern, which becomes a `Network` when roles are given out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import field

from torch import nn

from lessen.core.data import View
from lessen.core.errors import GraphError
from lessen.core.settings import named_fields
from lessen.graph.cache import Cache
from lessen.graph.combine import Combine, Sum
from lessen.graph.nodes.network import Network
from lessen.graph.nodes.node import Node
from lessen.graph.nodes.reads import Read
from lessen.optim.optimizer import Optimizer
from lessen.optim.schedule import Schedule
from lessen.sparsify.contract import Sparsify


@named_fields
class Role(Node):
    """The network that plays a role, as a node of a pattern.

    Args:
        name: What edges call it.
        role: Whose network it is: "teacher", "student", "teachers", "students" or "assistants". None: as the name says.
        place: Which of several networks of that role, from 0.
        learns: Whether its weights move.
        view: As in `Network`; so are all that follow.
        optimizer: How it moves.
        schedule: Of its learning rate.
        combine: What it does with several losses that arrive.
        cache: Keep what a frozen node gives on disk.
        sparsify: How its weights become sparse while it learns.
        reads: What it is called with.
    """

    name: str
    role: str | None = None
    place: int = 0
    learns: bool = False
    view: View | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    combine: Combine = field(default_factory=Sum)
    cache: Cache | None = None
    sparsify: Sparsify | None = None
    reads: Read | Sequence[Read] | None = None

    def can_learn(self) -> bool:
        return self.learns

    def check(self, nodes: Mapping[str, Node]) -> None:
        raise GraphError(
            f"The node {self.name!r} is a role without a network. Put the graph into a Pattern and give it a cast, or "
            f"write Network(name={self.name!r}, module=..., learns={self.learns})."
        )

    @property
    def plays(self) -> tuple[str, int]:
        return self.role or self.name, self.place

    def played_by(self, module: nn.Module) -> Network:
        """The node with its network."""
        return Network(module=module, **{name: getattr(self, name) for name in _SHARED})


_SHARED = [each.name for each in dataclasses.fields(Network) if each.name != "module"]
