"""Graphs as data: a pattern is a graph whose networks are roles, so that it can be written to a file and read back."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field, InstanceOf
from torch import nn

from lessen.core.card import Card
from lessen.core.errors import SettingError
from lessen.core.settings import settings
from lessen.graph import Edge, Fit, Graph, Stage
from lessen.graph.gate import SetGate, SmallestLoss, SoftmaxOfLosses
from lessen.graph.nodes.node import Node
from lessen.graph.turns import Turns
from lessen.schemes.scheme import Cast, Scheme, role, roles
from lessen.schemes.supervised import Count


@settings
class Pattern:
    """One stage with a graph of one's own; its networks are those of a run. Cast: as its `Role` nodes say.

    Args:
        nodes: `Role` for each network, `Labels`, and other kinds of nodes.
        edges: Who teaches whom.
        gates: Set gates, by the name that edges call them.
        turns: Which learning nodes move at which step. None: all, at every step.
        name: For logs.
        epochs: Passes over the training data.
        steps: Optimizer steps, instead of epochs.
        fit: How the learning nodes are trained.
    """

    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    edges: Annotated[tuple[InstanceOf[Edge], ...], Field(min_length=1)]
    gates: dict[str, SmallestLoss | SoftmaxOfLosses | SetGate] | None = None
    turns: Turns | None = None
    name: str = "pattern"
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()

    card: ClassVar[Card] = Card(
        row="schemes / own graphs",
        paper="folklore",
        says="A graph of one's own, written in a recipe.",
        costs="As its graph says; nothing in the shipped model.",
        fails_when="A node holds a network or examples of its own: these cannot be written. Build the graph in Python.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        nodes = [node if node.plays is None else node.played_by(self._player(*node.plays, cast)) for node in self.nodes]
        return [
            Stage(
                name=self.name,
                graph=Graph(nodes=nodes, edges=self.edges, gates=self.gates),
                epochs=None if self.steps is not None else self.epochs,
                steps=self.steps,
                fit=self.fit,
                turns=self.turns,
            )
        ]

    def _player(self, name: str, place: int, cast: Cast) -> nn.Module:
        if name in {"teachers", "students", "assistants"}:
            return roles(cast, name, self, least=place + 1)[place]
        return role(cast, name, self)


@settings
class InTurn:
    """Schemes one after another, as one step. Cast: that of each.

    Args:
        schemes: Who teaches whom first, second, and so on.
    """

    schemes: Annotated[tuple[Scheme, ...], Field(min_length=1)]

    card: ClassVar[Card] = Card(
        row="schemes / own graphs",
        paper="folklore",
        says="The stages of several schemes follow one another.",
        costs="Those of each scheme.",
        fails_when="A later scheme takes back what an earlier one taught.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        return [stage for scheme in self.schemes for stage in scheme.stages(cast)]


def pattern_of(scheme: Scheme, *, students: int = 1, assistants: int = 0, teachers: int = 1) -> Pattern | InTurn:
    """The graph of a scheme as data; of several stages, one after another.

    Args:
        scheme: Its nodes may hold no networks but those of the cast.
        students: How many networks play this role.
        assistants: The same.
        teachers: The same.

    Raises:
        SettingError: a network of it has no role, or a stage has data of its own.
    """
    counts = {"teachers": teachers, "students": students, "assistants": assistants}
    cast: dict[str, Any] = {name: [nn.Identity() for _ in range(count)] for name, count in counts.items() if count}
    known = {id(module): (name, place) for name, modules in cast.items() for place, module in enumerate(modules)}
    for one, several in (("teacher", "teachers"), ("student", "students")):
        cast[one] = cast[several][0]
        known[id(cast[one])] = (one, 0)
    found = tuple(_pattern(stage, known, scheme) for stage in scheme.stages(cast))
    return found[0] if len(found) == 1 else InTurn(schemes=found)


def _pattern(stage: Stage, known: dict[int, tuple[str, int]], scheme: Scheme) -> Pattern:
    nodes: list[Node] = []
    for node in stage.graph.nodes:
        if node.network is None:
            nodes.append(node)
        elif id(node.network) in known:
            nodes.append(node.as_role(*known[id(node.network)]))
        else:
            raise SettingError(f"The network of {node.name!r} in {type(scheme).__name__} plays no role of the cast.")
    if stage.data is not None:
        raise SettingError(f"The stage {stage.name!r} has data of its own, which cannot be written to a file.")
    gates = None if stage.graph.gates is None else dict(stage.graph.gates)
    length = {"steps": stage.steps} if stage.epochs is None else {"epochs": stage.epochs}
    fields: dict[str, Any] = {name: getattr(stage, name) for name in ("name", "fit", "turns")}
    return Pattern(nodes=tuple(nodes), edges=tuple(stage.graph.edges), gates=gates, **length, **fields)
