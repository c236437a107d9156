"""The graphs of stages as data, for `graph.json` and for drawing."""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any

from lessen.graph.edge import edge_names
from lessen.graph.nodes.node import Node, reached
from lessen.graph.stage import Stage


def draw(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Nodes and edges of every stage, as JSON data."""
    return [
        {
            "stage": number,
            "name": stage.name,
            **({} if stage.turns is None else {"turns": [[names, steps] for names, steps in stage.turns.of]}),
            "nodes": [_node(node, {other.name: other for other in stage.graph.nodes}) for node in stage.graph.nodes],
            "edges": [
                {
                    "name": name,
                    "source": edge.source,
                    "target": edge.target,
                    "objective": _short(edge.objective),
                    "source_tap": str(edge.taps()[0]),
                    "target_tap": str(edge.taps()[1]),
                    "weight": edge.weight,
                    "schedule": None if edge.schedule is None else _short(edge.schedule),
                    "gate": _gate(edge.gate, stage.graph.gates or {}),
                    "bridge": None if edge.bridge is None else _short(edge.bridge),
                    **({} if edge.moves is None else {"moves": dict(edge.moves)}),
                }
                for name, edge in zip(edge_names(stage.graph.edges), stage.graph.edges, strict=True)
            ],
        }
        for number, stage in enumerate(stages)
    ]


def _gate(gate: object, gates: Mapping[str, object]) -> str:
    """What a gate is called; a gate over several edges by its name and what it is."""
    if isinstance(gate, str):
        return f"{gate}: {_gate(gates[gate], {})}"
    return type(gate).__name__ if type(gate).__name__ != "function" else "callable"


def _node(node: Node, nodes: Mapping[str, Node]) -> dict[str, Any]:
    """A node; `moves` are the nodes that learn by what arrives here, where it does not learn itself."""
    moves = [] if node.can_learn() else [name for name in reached(node.name, nodes) if nodes[name].can_learn()]
    more = {"moves": moves} if moves else {}
    return {"name": node.name, "kind": type(node).__name__, "learns": node.can_learn(), **node.drawn(_short), **more}


def _short(value: object) -> str:
    if isinstance(value, types.FunctionType | types.MethodType):
        return value.__qualname__
    text = repr(value)
    return text if len(text) <= 120 and "\n" not in text and " object at 0x" not in text else type(value).__name__
