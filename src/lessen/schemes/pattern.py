"""Graphs as data: a pattern is a graph whose networks are roles, so that it can be written to a file and read back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field, InstanceOf
from torch import nn

from lessen.core.card import Card
from lessen.core.errors import GraphError, SettingError
from lessen.core.settings import settings
from lessen.graph import Edge, Graph, Stage
from lessen.graph.gate import SetGate, SmallestLoss, SoftmaxOfLosses
from lessen.graph.nodes.node import Node
from lessen.graph.turns import Turns
from lessen.schemes.scheme import BaseScheme, Cast, Counts, Scheme, TrainedScheme, role, roles


@settings
class Pattern(TrainedScheme):
    """One stage with a graph of one's own; its networks are those of a run. Cast: as its `Role` nodes say.

    Args:
        nodes: `Role` for each network, `Labels`, and other kinds of nodes.
        edges: Who teaches whom.
        gates: Set gates, by the name that edges call them.
        turns: Which learning nodes move at which step. None: all, at every step.
        name: For logs.
    """

    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    edges: Annotated[tuple[InstanceOf[Edge], ...], Field(min_length=1)]
    gates: dict[str, SmallestLoss | SoftmaxOfLosses | SetGate] | None = None
    turns: Turns | None = None
    name: str = "pattern"

    card: ClassVar[Card] = Card(
        row="schemes / own graphs",
        paper="folklore",
        says="A graph of one's own, written in a recipe.",
        costs="As its graph says; nothing in the shipped model.",
        fails_when="A node holds a network or examples of its own: these cannot be written. Build the graph in Python.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        """Itself."""
        return [self]

    def played(self, cast: Cast, scheme: object) -> Stage:
        """The stage, with the networks of the cast in their roles.

        Args:
            cast: Who plays.
            scheme: Whose pattern it is, for errors.

        Raises:
            SettingError: a role is missing from the cast, or has too few networks.
        """

        def player(name: str, place: int) -> nn.Module:
            if name in {"teachers", "students", "assistants"}:
                return roles(cast, name, scheme, least=place + 1)[place]
            return role(cast, name, scheme)

        nodes = [node if node.plays is None else node.played_by(player(*node.plays)) for node in self.nodes]
        return Stage(
            name=self.name,
            graph=Graph(nodes=nodes, edges=self.edges, gates=self.gates),
            epochs=None if self.steps is not None else self.epochs,
            steps=self.steps,
            fit=self.fit,
            turns=self.turns,
        )


@settings
class InTurn(BaseScheme):
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

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        """Those of each scheme."""
        return [pattern for scheme in self.schemes for pattern in _patterns(scheme, counts)]

    def stages(self, cast: Cast, /) -> list[Stage]:
        """Those of each scheme, which may be one that has no patterns."""
        return [stage for scheme in self.schemes for stage in scheme.stages(cast)]


def one_stage(scheme: TrainedScheme, name: str, nodes: Sequence[Node], edges: Sequence[Edge]) -> Pattern:
    """The pattern of one stage, trained as a scheme says.

    Raises:
        GraphError: there is no edge.
    """
    if not edges:
        raise GraphError(
            f"No node learns in stage {name!r}: {type(scheme).__name__} has neither knowledge nor labels to teach. "
            "Give it one of them."
        )
    return Pattern(
        name=name,
        nodes=tuple(nodes),
        edges=tuple(edges),
        epochs=scheme.epochs,
        steps=scheme.steps,
        fit=scheme.fit,
    )


def pattern_of(scheme: Scheme, *, students: int = 1, assistants: int = 0, teachers: int = 1) -> Pattern | InTurn:
    """The graph of a scheme as data; of several stages, one after another.

    Args:
        scheme: A scheme of lessen, or one that derives from `BaseScheme`.
        students: How many networks play this role.
        assistants: The same.
        teachers: The same.

    Raises:
        SettingError: a role has too few networks, or the scheme says its stages only.
    """
    several = {"teachers": teachers, "students": students, "assistants": assistants}
    counts = {"teacher": 1, "student": 1} | {name: number for name, number in several.items() if number}
    found = _patterns(scheme, counts)
    return found[0] if len(found) == 1 else InTurn(schemes=tuple(found))


def _patterns(scheme: Scheme, counts: Counts) -> Sequence[Pattern]:
    if isinstance(scheme, BaseScheme):
        return scheme.patterns(counts)
    name = type(scheme).__name__
    raise SettingError(
        f"{name} has only stages(cast), so it is no graph without its networks: derive it from BaseScheme, and return "
        "its graphs from patterns(counts)."
    )
