"""What can be checked in a stage without running anything: names, roles, and whether any node learns."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from lessen.core.errors import GraphError, did_you_mean
from lessen.graph.edge import Edge, edge_names
from lessen.graph.gate import CutOff
from lessen.graph.moves import check_moves
from lessen.graph.nodes.node import Node, find, takes_gradient
from lessen.graph.nodes.other_data import data_behind
from lessen.graph.stage import Graph, Stage, sparsified
from lessen.surgery.taps import Tap, each_tap


def check(stage: Stage) -> None:
    """Check the names and settings of a stage.

    Raises:
        GraphError: naming the node or the edge, and what to do.
        PlanError: a network cannot become sparse in the requested way.
    """
    if (stage.epochs is None) == (stage.steps is None):
        raise GraphError(f"Stage {stage.name!r} needs either epochs or steps, and not both.")
    length = stage.epochs if stage.steps is None else stage.steps
    if length is None or length < 1:
        raise GraphError(f"Stage {stage.name!r} runs for {length}; it needs at least 1 epoch or step.")
    nodes = named(stage.graph)
    for node in nodes.values():
        node.check(nodes)
    _check_order(nodes)
    for name, edge in zip(edge_names(stage.graph.edges), stage.graph.edges, strict=True):
        _check_edge(name, edge, nodes)
    _check_gates(stage.graph)
    if stage.turns is not None:
        stage.turns.check(nodes)
    if not any(works(edge) for edge in stage.graph.edges):
        raise GraphError(
            f"No node learns in stage {stage.name!r}: no edge that reaches a learning node has a non-zero weight and "
            "an open gate. Add an edge to a node with learns=True."
        )
    _check_sharing(nodes)
    for sparsify, module in sparsified(stage).values():
        sparsify.check(module)
        if stage.fit.average is not None and getattr(sparsify, "shrinks", False):
            raise GraphError(
                f"{type(sparsify).__name__} shrinks channels to zero, but the average of what was larger before is "
                f"never zero. Leave out average or sparsify in stage {stage.name!r}."
            )


def named(graph: Graph) -> dict[str, Node]:
    """The nodes by name.

    Raises:
        GraphError: two have the same name, or a name cannot be told from an edge's.
    """
    nodes: dict[str, Node] = {}
    for node in graph.nodes:
        if node.name in nodes:
            raise GraphError(f"Two nodes are called {node.name!r}. Give each its own name.")
        if not node.name or any(mark in node.name for mark in (".", "->", ":", "#", "/")):
            raise GraphError(f"A node cannot be called {node.name!r}: use a name without . -> : # or /.")
        nodes[node.name] = node
    return nodes


def works(edge: Edge) -> bool:
    """Whether an edge can ever have an effect."""
    return edge.weight != 0 and not isinstance(edge.gate, CutOff)


def _check_edge(name: str, edge: Edge, nodes: Mapping[str, Node]) -> None:
    target = find(edge.target, nodes, f"the edge {name}")
    source_tap, target_tap = edge.taps()
    ends = [(target, target_tap)]
    _check_source(name, edge)
    if edge.source is not None:
        ends.insert(0, (find(edge.source, nodes, f"the edge {name}"), source_tap))
    for node, tap in ends:
        if node.writes:
            raise GraphError(
                f"The edge {name} names {node.name!r}, which makes a part of the batch and has no value of its own. "
                "Name the network that generates."
            )
        if not node.has_layers and set(each_tap(tap)) != {Tap()}:
            raise GraphError(
                f"The edge {name} taps {str(tap)!r} in {node.name!r}, which has no layers. Leave the tap out."
            )
    if not math.isfinite(edge.weight):
        raise GraphError(f"The edge {name} has the weight {edge.weight}. Give a finite number.")
    _check_data(name, edge, nodes)
    if edge.moves is not None:
        check_moves(name, edge, nodes)
        return
    target.check_arriving(name, nodes)
    if not takes_gradient(edge.target, nodes):
        raise GraphError(
            f"The edge {name} arrives at {edge.target!r}, which cannot learn. An edge points from the teaching node to "
            "the learning node; a network learns with learns=True."
        )
    if edge.to_source and edge.source is not None and not takes_gradient(edge.source, nodes):
        raise GraphError(f"The edge {name} sends gradient to {edge.source!r}, which cannot learn. Leave to_source out.")


def _check_data(name: str, edge: Edge, nodes: Mapping[str, Node]) -> None:
    """Whether the ends of an edge are of the same examples, unless its objective compares whole batches."""
    ends = [end for end in (edge.source, edge.target) if end is not None]
    behind = [data_behind(end, nodes) for end in ends]
    for end, found in zip(ends, behind, strict=True):
        if len(found) > 1:
            said = " and ".join(repr(one) if one else "the data of the stage" for one in sorted(found))
            raise GraphError(f"The node {end!r} mixes examples of {said}. Let all that it reads be of the same data.")
    if len(set(map(frozenset, behind))) > 1 and not getattr(edge.objective, "relational", False):
        raise GraphError(
            f"The edge {name} compares examples of different data. Let both ends read the same, or use an objective "
            "that compares whole batches (`relational = True`)."
        )


def _check_source(name: str, edge: Edge) -> None:
    """Whether an edge has a source where its objective compares, and none where it looks at the target alone."""
    alone = bool(getattr(edge.objective, "alone", False))
    objective = getattr(edge.objective, "__name__", type(edge.objective).__name__)
    if edge.source is not None and alone:
        raise GraphError(
            f"The objective {objective} of the edge {name} looks at the target alone. Leave the source out."
        )
    if edge.source is None and not alone:
        raise GraphError(
            f"The edge {name} has no source, and {objective} compares the target with one. Name the source; an "
            "objective that looks at the target alone says `alone = True`."
        )
    if edge.source is None and (edge.to_source or edge.bridge is not None or edge.taps()[0] != Tap()):
        raise GraphError(f"The edge {name} has no source. Leave source_tap, bridge and to_source out.")


def _check_gates(graph: Graph) -> None:
    """Whether edges name set gates that there are, and every set gate has edges."""
    gates = graph.gates or {}
    named = {edge.gate for edge in graph.edges if isinstance(edge.gate, str)}
    for name, edge in zip(edge_names(graph.edges), graph.edges, strict=True):
        if isinstance(edge.gate, str) and edge.gate not in gates:
            raise GraphError(
                f"The edge {name} names the gate {edge.gate!r}, which Graph(gates=...) does not have: "
                f"{did_you_mean(edge.gate, gates)}"
            )
    for gate, given in gates.items():
        if gate not in named:
            raise GraphError(f"No edge names the gate {gate!r} of the graph. Leave it out.")
        if isinstance(given, nn.Module) and any(True for _ in given.parameters()):
            raise GraphError(
                f"The gate {gate!r} has weights, but a gate over several edges belongs to no node that could move "
                "them. Use one without weights."
            )


def _check_order(nodes: Mapping[str, Node]) -> None:
    """Whether every node can be computed after those that it needs."""
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        if name in way:
            said = " reads ".join(repr(one) for one in (*way[way.index(name) :], name))
            raise GraphError(f"No node of a circle can be computed first: {said}. Leave one of these reads out.")
        if name not in done:
            for other in nodes[name].needs(nodes):
                follow(other, (*way, name))
            done.add(name)

    for name in nodes:
        follow(name, ())


def _check_sharing(nodes: Mapping[str, Node]) -> None:
    owner: dict[int, Node] = {}
    for node in nodes.values():
        for name, parameter in [] if node.network is None else node.network.named_parameters():
            other = owner.setdefault(id(parameter), node)
            if other.can_learn() != node.can_learn():
                raise GraphError(
                    f"{other.name!r} and {node.name!r} share the weight {name!r}, but one learns and the "
                    f"other is frozen. "
                    "Copy the frozen one with copy.deepcopy, or use a Snapshot."
                )
