"""What can be checked in a stage without running anything: names, roles, and whether any node learns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

from lessen.core.errors import GraphError, did_you_mean
from lessen.graph.edge import Edge, edge_names
from lessen.graph.gate import CutOff
from lessen.graph.node import Branch, Ensemble, Labels, Network, Node, Snapshot
from lessen.graph.stage import Graph, Stage, sparsified
from lessen.surgery.taps import Tap, each_tap

T = TypeVar("T")


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
        _check_node(node, nodes)
    for name, edge in zip(edge_names(stage.graph.edges), stage.graph.edges, strict=True):
        _check_edge(name, edge, nodes)
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
    _check_on_policy(stage.graph, nodes)


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


def learns(node: Node) -> bool:
    """Whether weights of a node itself move when an edge arrives."""
    if isinstance(node, Network):
        return node.learns
    return isinstance(node, Branch) or (
        isinstance(node, Ensemble) and (node.to_members or getattr(node.combine, "learns", False))
    )


def _check_node(node: Node, nodes: Mapping[str, Node]) -> None:
    if isinstance(node, Network) and node.learns and node.cache is not None:
        raise GraphError(
            f"The node {node.name!r} learns, so its outputs cannot be cached. Only frozen nodes have a cache."
        )
    if isinstance(node, Snapshot | Branch):
        _find(node.of, nodes, f"the node {node.name!r}", Network, "a network")
    if isinstance(node, Ensemble):
        if not node.of:
            raise GraphError(f"The ensemble {node.name!r} has no members. Name at least one node.")
        for member in node.of:
            found = _find(
                member, nodes, f"the ensemble {node.name!r}", Network | Snapshot | Branch | Ensemble, "a network"
            )
            if isinstance(found, Ensemble) and node.name in _inside(found, nodes, ()):
                raise GraphError(f"The ensembles {node.name!r} and {member!r} contain each other.")


def _inside(node: Ensemble, nodes: Mapping[str, Node], seen: tuple[str, ...]) -> set[str]:
    found = set(node.of)
    for name in node.of:
        member = nodes.get(name)
        if isinstance(member, Ensemble) and name not in seen:
            found |= _inside(member, nodes, (*seen, name))
    return found


def _check_edge(name: str, edge: Edge, nodes: Mapping[str, Node]) -> None:
    source = _find(edge.source, nodes, f"the edge {name}", Node, "a node")
    target = _find(edge.target, nodes, f"the edge {name}", Node, "a node")
    source_tap, target_tap = edge.taps()
    for node, tap in ((source, source_tap), (target, target_tap)):
        if isinstance(node, Labels | Ensemble) and set(each_tap(tap)) != {Tap()}:
            raise GraphError(
                f"The edge {name} taps {str(tap)!r} in {node.name!r}, which has no layers. Leave the tap out."
            )
    if not math.isfinite(edge.weight):
        raise GraphError(f"The edge {name} has the weight {edge.weight}. Give a finite number.")
    if isinstance(target, Ensemble) and not any(learns(nodes[name]) for name in target.of) and target.to_members:
        raise GraphError(f"The edge {name} sends gradient to the members of {target.name!r}, none of which can learn.")
    if not learns(target):
        raise GraphError(
            f"The edge {name} arrives at {edge.target!r}, which cannot learn. An edge points from the teaching node to "
            "the learning node; a network learns with learns=True."
        )
    if edge.to_source and not learns(source):
        raise GraphError(f"The edge {name} sends gradient to {edge.source!r}, which cannot learn. Leave to_source out.")


def _find(name: str, nodes: Mapping[str, Node], who: str, kind: object, what: str) -> Node:
    if name not in nodes:
        raise GraphError(f"There is no node {name!r}, which {who} names: {did_you_mean(name, nodes)}")
    if not isinstance(nodes[name], kind):  # type: ignore[arg-type]
        raise GraphError(f"{who[0].upper()}{who[1:]} names {name!r}, a {type(nodes[name]).__name__}; it needs {what}.")
    return nodes[name]


def _check_sharing(nodes: Mapping[str, Node]) -> None:
    owner: dict[int, Network] = {}
    for node in nodes.values():
        if not isinstance(node, Network):
            continue
        for name, parameter in node.module.named_parameters():
            other = owner.setdefault(id(parameter), node)
            if other.learns != node.learns:
                raise GraphError(
                    f"{other.name!r} and {node.name!r} share the weight {name!r}, but one learns and the "
                    f"other is frozen. "
                    "Copy the frozen one with copy.deepcopy, or use a Snapshot."
                )


def _check_on_policy(graph: Graph, nodes: Mapping[str, Node]) -> None:
    if graph.on_policy is None:
        return
    _find(graph.on_policy.of, nodes, "the setting on_policy", Network, "a network")
    for node in nodes.values():
        if isinstance(node, Network) and node.cache is not None:
            raise GraphError(
                f"The node {node.name!r} is cached, but with on_policy it sees newly generated sequences. Leave the "
                "cache out."
            )
