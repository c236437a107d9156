"""Edges that say which nodes their loss moves, and in which direction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from lessen.core.errors import GraphError
from lessen.graph.edge import Edge
from lessen.graph.leading import led
from lessen.graph.nodes.node import Node, find, reached


def check_moves(name: str, edge: Edge, nodes: Mapping[str, Node]) -> None:
    """Whether the loss of an edge can move the nodes that it names.

    Raises:
        GraphError: naming the edge, and what to do.
    """
    assert edge.moves is not None
    if edge.to_source:
        raise GraphError(f"The edge {name} has `moves`, which says where gradient flows. Leave to_source out.")
    if not edge.moves:
        raise GraphError(f"The edge {name} moves no node. Name at least one in `moves`, or leave it out.")
    ends = [end for end in (edge.source, edge.target) if end is not None]
    within = {other for end in ends for other in reached(end, nodes)}
    for moved, factor in edge.moves.items():
        node = find(moved, nodes, f"the edge {name}", lambda node: node.can_learn(), "a node that can learn")
        if moved not in within:
            raise GraphError(
                f"The edge {name} moves {node.name!r}, but no gradient of its loss gets there. Let a node at its ends "
                f"read {node.name!r} with to_node=True, or leave it out of `moves`."
            )
        if not math.isfinite(factor) or factor == 0:
            raise GraphError(f"The edge {name} moves {moved!r} by {factor}. Give a number other than 0: 1 down, -1 up.")


class Steering:
    """Replaces a loss by one of the same value whose gradient arrives at the given weights alone.

    Args:
        name: Of the edge, for errors.
        moved: The weights that a loss moves, each list with the factor of its gradient.

    Raises:
        GraphError: two nodes with the same weights are moved.
    """

    def __init__(self, name: str, moved: Sequence[tuple[Sequence[nn.Parameter], float]]) -> None:
        self._factors: dict[nn.Parameter, float] = {}
        for parameters, factor in moved:
            if any(parameter in self._factors for parameter in parameters):
                raise GraphError(f"The edge {name} moves two nodes that share weights. Name one of them in `moves`.")
            self._factors |= dict.fromkeys(parameters, factor)

    def __call__(self, loss: Tensor, scale: Tensor | None = None) -> Tensor:
        """The loss, with gradient `factor * d loss / d p` at each weight p, exactly, and none elsewhere."""
        return led(loss, [(p, p, factor) for p, factor in self._factors.items() if p.requires_grad], scale)
