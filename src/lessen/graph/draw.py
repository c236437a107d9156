"""The graphs of stages as data, for `graph.json` and for drawing."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

from lessen.core.errors import SettingError
from lessen.core.settings import encode
from lessen.graph.check import learns
from lessen.graph.edge import edge_names
from lessen.graph.node import Branch, Ensemble, Node, Snapshot
from lessen.graph.stage import Stage


def draw(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Nodes and edges of every stage, as JSON data."""
    return [
        {
            "stage": number,
            "name": stage.name,
            "nodes": [_node(node) for node in stage.graph.nodes],
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
                    "gate": type(edge.gate).__name__ if type(edge.gate).__name__ != "function" else "callable",
                    "bridge": None if edge.bridge is None else _short(edge.bridge),
                }
                for name, edge in zip(edge_names(stage.graph.edges), stage.graph.edges, strict=True)
            ],
            **({} if stage.graph.on_policy is None else {"on_policy": _settings(stage.graph.on_policy)}),
        }
        for number, stage in enumerate(stages)
    ]


def _node(node: Node) -> dict[str, Any]:
    about: dict[str, Any] = {"name": node.name, "kind": type(node).__name__, "learns": learns(node)}
    if isinstance(node, Snapshot):
        about |= {"of": [node.of], "when": _short(node.when)}
    if isinstance(node, Ensemble):
        about |= {"of": list(node.of), "combine": _short(node.combine)}
    if isinstance(node, Branch):
        about |= {"of": [node.of], "tap": str(node.tap), "head": _short(node.head)}
    return about


def _settings(value: Any) -> Any:
    try:
        return encode(value)
    except SettingError:
        return type(value).__qualname__


def _short(value: object) -> str:
    if isinstance(value, types.FunctionType | types.MethodType):
        return value.__qualname__
    text = repr(value)
    return text if len(text) <= 120 and "\n" not in text and " object at 0x" not in text else type(value).__name__
