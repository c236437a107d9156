"""Nobody looks for the class of a node: a kind is asked. The sources are read."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lessen
from lessen.graph import nodes
from lessen.graph.nodes import Node

SOURCE = Path(lessen.__file__).parent
KINDS = {name for name in nodes.__all__ if isinstance(kind := getattr(nodes, name), type) and issubclass(kind, Node)}


def looked_for(source: str) -> list[str]:
    """The kinds of nodes that a source looks for: by `isinstance`, `issubclass`, `type(...) is`, or in a `match`."""
    asked: list[ast.AST] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            asked += node.args[1:] if node.func.id in {"isinstance", "issubclass"} else []
        if isinstance(node, ast.Compare) and isinstance(node.left, ast.Call) and ast.unparse(node.left.func) == "type":
            asked += node.comparators
        if isinstance(node, ast.MatchClass):
            asked.append(node.cls)
    names = [part for each in asked for part in ast.walk(each)]
    found = [
        part.id if isinstance(part, ast.Name) else part.attr
        for part in names
        if isinstance(part, ast.Name | ast.Attribute)
    ]
    return [name for name in found if name in KINDS - {"Node"}]


def test_kinds_are_asked() -> None:
    assert len(KINDS) > 9
    found = {
        str(path.relative_to(SOURCE)): names
        for path in SOURCE.rglob("*.py")
        if "graph/nodes" not in path.as_posix() and (names := looked_for(path.read_text(encoding="utf-8")))
    }
    assert found == {}


@pytest.mark.parametrize(
    "planted",
    [
        "isinstance(node, Network)",
        "isinstance(node, (int, graph.Labels))",
        "isinstance(node, Branch | Ensemble)",
        "type(node) is Snapshot",
        "issubclass(kind, Network)",
        "match node:\n    case Network():\n        pass",
    ],
)
def test_a_look_is_found(planted: str) -> None:
    assert looked_for(planted)
