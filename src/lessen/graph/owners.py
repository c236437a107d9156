"""Who moves what: each learning thing belongs to exactly one node, whose optimizer moves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import nn

from lessen.core.errors import GraphError, LessenError, SettingError
from lessen.graph.apart import Carriers
from lessen.graph.edge import Edge
from lessen.graph.moves import Steering
from lessen.graph.nodes.node import Node, reached
from lessen.graph.nodes.unit import Unit
from lessen.graph.ready import Ready
from lessen.graph.stage import Stage
from lessen.optim.optimizer import APART, KeepsApart, Optimizer
from lessen.optim.schedule import Schedule
from lessen.optim.torch_optimizer import check_step


@dataclass(frozen=True, eq=False)
class Owner:
    """One optimizer's worth: a learning node, and all that learns with it.

    Args:
        name: The node.
        parts: What learns, by name: the network, heads, bridges, objectives, gates.
        optimizer: The settings of its optimizer.
        schedule: Of its learning rate.
        named: What its optimizer moves, by name (see `Optimizer`).
        carriers: For an optimizer that keeps the gradients of some losses apart: where they are.
    """

    name: str
    parts: dict[str, nn.Module]
    optimizer: Optimizer
    schedule: Schedule
    named: dict[str, nn.Parameter] = field(default_factory=dict)
    carriers: Carriers | None = None

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """All that has a gradient for its optimizer."""
        return [*self.named.values(), *(self.carriers.parameters() if self.carriers is not None else ())]

    def build(self) -> torch.optim.Optimizer:
        """Its optimizer.

        Raises:
            SettingError: a rule of it matches nothing, or torch refuses what it is given; the text names the node.
        """
        try:
            carriers = {} if self.carriers is None else self.carriers.named([APART + name for name in self.named])
            made = self.optimizer.build({**self.named, **carriers})
            check_step(made)
        except LessenError as error:
            raise type(error)(f"The optimizer of {self.name!r}: {error}") from error
        except (ValueError, TypeError) as error:
            raise SettingError(f"The optimizer of {self.name!r} cannot be made: {error}") from error
        return made


class Moved:
    """What learns in a stage, and which losses move it.

    Args:
        stage: The stage.
        nodes: All nodes, by name.
        units: Those that are computed.
        edges: Those that may count.

    Attributes:
        owners: By the node whose optimizer it is.
        learning: All that learns, in the order of the owners.

    Raises:
        GraphError: nothing learns.
    """

    def __init__(
        self, stage: Stage, nodes: Mapping[str, Node], units: Mapping[str, Unit], edges: Sequence[Ready]
    ) -> None:
        self._nodes, self._units, self._edges = nodes, units, edges
        self.owners: dict[str, Owner] = {}
        self.learning: list[nn.Module] = []
        taken: set[int] = set()
        for name, mine in self._parts().items():
            moved = {}
            for kind, part in mine.items():
                self.learning.append(part)
                for path, parameter in part.named_parameters(prefix="" if kind == f"network:{name}" else kind):
                    if parameter.requires_grad and id(parameter) not in taken:
                        taken.add(id(parameter))
                        moved[path] = parameter
            node, carriers = nodes[name], None
            optimizer = node.optimizer or stage.fit.optimizer
            if moved and isinstance(optimizer, KeepsApart):
                carriers = Carriers(moved)
                self.learning.append(carriers)
            self.owners[name] = Owner(name, mine, optimizer, node.schedule or stage.fit.schedule, moved, carriers)
        if not taken:
            raise GraphError(f"No node learns in stage {stage.name!r}: no weight has requires_grad set.")

    def by(self, edge: Edge) -> frozenset[str]:
        """The nodes whose optimizers move what the loss of an edge gives gradient to."""
        if edge.moves is not None:
            return frozenset(self._root(name) for name in edge.moves)
        ends = [edge.target, *([edge.source] if edge.to_source and edge.source is not None else [])]
        return frozenset(self._root(name) for end in ends for name in reached(end, self._nodes))

    def movable(self, name: str) -> list[nn.Parameter]:
        """What the losses that arrive at a node may move."""
        arriving = [ready.edge.moves or () for ready in self._edges if ready.target == name]
        reach = [*reached(name, self._nodes), *(moved for moves in arriving for moved in moves)]
        roots = dict.fromkeys(self._root(other) for other in reach)
        return [p for root in roots if root in self.owners for p in self.owners[root].named.values()]

    def kept_apart(self, ready: Ready) -> bool:
        """Whether the optimizer of an edge's target keeps the gradient of its loss apart."""
        owner = self.owners[self._root(ready.target)]
        optimizer = owner.optimizer
        return isinstance(optimizer, KeepsApart) and owner.carriers is not None and optimizer.apart(ready.source)

    def steering(self, ready: Ready) -> Steering:
        """What leads the gradient of an edge's loss to the nodes that it names.

        Raises:
            GraphError: something learns on the edge, with a node that it does not name; or two share weights.
        """
        moves = ready.edge.moves or {}
        if self._learner(ready) not in moves and self._own(None, ready):
            raise GraphError(
                f"The edge {ready.name} has a bridge, objective or gate that learns with {ready.target!r}, which its "
                "`moves` does not name. Name it, or use parts without weights."
            )
        return Steering(ready.name, [(self._own(moved, ready), factor) for moved, factor in moves.items()])

    def _parts(self) -> dict[str, dict[str, nn.Module]]:
        """What learns, by the node whose optimizer moves it."""
        parts: dict[str, dict[str, nn.Module]] = {}
        for name, unit in self._units.items():
            if unit.module is not None and self._nodes[name].can_learn():
                parts.setdefault(self._root(name), {})[f"{unit.kind}:{name}"] = unit.module
                if isinstance(combine := unit.combine, nn.Module):
                    parts[self._root(name)][f"combine:{name}"] = combine
        for ready in self._edges:
            mine = parts.setdefault(self._root(ready.target), {})
            mine |= {f"{kind}:{ready.name}": part for kind, part in ready.parts().items()}
        return parts

    def _own(self, name: str | None, ready: Ready) -> list[nn.Parameter]:
        """What learns at a node itself, and on an edge if it learns with the node; None: on the edge alone."""
        unit = None if name is None else self._units[name]
        modules = [] if unit is None else [unit.module, unit.combine]
        modules += ready.parts().values() if name in {None, self._learner(ready)} else ()
        found = [p for module in modules if isinstance(module, nn.Module) for p in module.parameters()]
        return list(dict.fromkeys(p for p in found if p.requires_grad))

    def _learner(self, ready: Ready) -> str:
        """The node that what learns on an edge learns with: its target, or the one whose weights the target has."""
        return ready.target if self._nodes[ready.target].can_learn() else self._root(ready.target)

    def _root(self, name: str) -> str:
        return self._nodes[name].moved_by(self._nodes)
