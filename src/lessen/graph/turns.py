"""Turns: which learning nodes move at which step of a stage."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated

from pydantic import Field

from lessen.core.errors import GraphError
from lessen.core.settings import settings
from lessen.graph.nodes.node import Node, find

Names = str | tuple[str, ...]


@settings
class Turns:
    """Learning nodes move in turns, again and again; nodes that no turn names move at every step.

    A node that waits keeps its weights, and all that its optimizer remembers, bit for bit; so does what learns with it
    (heads, bridges). Edges that move only nodes that wait are not computed. Running statistics of a network that waits
    still move at steps at which an edge needs the network.

    Args:
        of: The turns of a round: a node, or several together, and how many steps they move for.

    >>> turns = Turns(of=(("generator", 1), (("student", "head"), 2)))
    >>> [sorted(turns.waiting(step)) for step in range(4)]
    [['head', 'student'], ['generator'], ['generator'], ['head', 'student']]
    """

    of: Annotated[tuple[tuple[Names, Annotated[int, Field(ge=1)]], ...], Field(min_length=1)]

    def waiting(self, step: int) -> frozenset[str]:
        """The nodes that do not move at a step of the stage, counted from 0."""
        return self._round[step % len(self._round)]

    @property
    def names(self) -> frozenset[str]:
        """All nodes that have a turn."""
        return frozenset(itertools.chain.from_iterable(_several(names) for names, _ in self.of))

    @cached_property
    def _round(self) -> list[frozenset[str]]:
        return [self.names.difference(_several(names)) for names, steps in self.of for _ in range(steps)]

    def check(self, nodes: Mapping[str, Node]) -> None:
        """Whether every node that has a turn has an optimizer of its own.

        Raises:
            GraphError: naming the node, and what to do.
        """
        for name in sorted(self.names):
            node = find(name, nodes, "a turn of the stage", lambda node: node.can_learn(), "a node that can learn")
            if (root := node.moved_by(nodes)) != name:
                raise GraphError(f"A turn of the stage names {name!r}, which moves with {root!r}. Name {root!r}.")


def _several(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names
