"""The graphs of stages as data: for `graph.json`, for drawing, and to tell one run from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from lessen.core.errors import SettingError
from lessen.core.settings import encode
from lessen.graph.check import learns
from lessen.graph.edge import edge_names
from lessen.graph.node import Ensemble, Network, Node, Snapshot
from lessen.graph.stage import Stage


def draw(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Nodes and edges of every stage, as JSON data."""
    return [
        {
            "stage": number,
            "name": stage.name,
            "nodes": [{"name": n.name, "kind": type(n).__name__, "learns": learns(n)} for n in stage.graph.nodes],
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


def fingerprint(stages: Sequence[Stage], **also: object) -> str:
    """A digest of everything that decides how stages go on, except the values of weights."""
    told = [
        {
            "drawn": drawing,
            "length": [stage.epochs, stage.steps],
            "fit": _settings(stage.fit),
            "nodes": [_told(node) for node in stage.graph.nodes],
            "edges": [[_settings(edge.objective), edge.to_source] for edge in stage.graph.edges],
        }
        for drawing, stage in zip(draw(stages), stages, strict=True)
    ]
    return hashlib.sha256(json.dumps([told, also], sort_keys=True, default=str).encode()).hexdigest()


def _told(node: Node) -> list[Any]:
    if isinstance(node, Network):
        shapes = {name: list(value.shape) for name, value in node.module.state_dict().items()}
        return [
            node.name,
            shapes,
            *map(_settings, (node.view, node.optimizer, node.schedule, node.combine, node.sparsify)),
        ]
    if isinstance(node, Snapshot):
        return [node.name, node.of, _settings(node.when), _settings(node.view)]
    if isinstance(node, Ensemble):
        return [node.name, list(node.of), _settings(node.combine), node.to_members]
    return [node.name]


def _settings(value: Any) -> Any:
    try:
        return encode(value)
    except SettingError:
        return type(value).__qualname__


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 and "\n" not in text and " object at 0x" not in text else type(value).__name__
