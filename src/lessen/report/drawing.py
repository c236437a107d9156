"""A transfer graph as a picture: who teaches on the left, who learns on the right, what is taught in between.

Each edge runs through a label of its own, in a column that keeps labels apart, so that a graph in which everybody
teaches everybody can still be read. Edges between two learners have their labels in a second column, on the right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lessen.report.html import Html, join, tag
from lessen.report.numbers import digits

NODE, LABEL, GAP = (112, 46), (142, 24), 44
"""Width and height of a node and of a label, and the space between columns, in pixels."""
ROW, MARGIN = 34, 8
"""Height that a label takes with the space around it, and the margin of the picture."""

Point = tuple[float, float]


def draw_graph(graph: Mapping[str, Any], *, title: str, name: str) -> Html:
    """The picture of one stage's graph, as inline SVG.

    Args:
        graph: One entry of graph.json: `nodes` and `edges`.
        title: What it shows, for those who cannot see it.
        name: A prefix that makes its ids unique on the page.
    """
    nodes, edges = list(graph.get("nodes", [])), list(graph.get("edges", []))
    known = {str(node.get("name")) for node in nodes}
    unknown = dict.fromkeys(end for edge in edges for end in _ends(edge) if end not in known)
    nodes += [{"name": name} for name in unknown]
    targets = {str(edge.get("target")) for edge in edges}
    right = [node for node in nodes if node.get("learns") or str(node.get("name")) in targets]
    left = [node for node in nodes if node not in right]
    learners = {str(node.get("name")) for node in right}
    across = [edge for edge in edges if str(edge.get("source")) not in learners]
    among = [edge for edge in edges if str(edge.get("source")) in learners]

    height = 2 * MARGIN + max(ROW * len(across), ROW * len(among), 66 * max(len(left), len(right), 1))
    x_label = MARGIN + NODE[0] + GAP if left else MARGIN
    x_right = x_label + LABEL[0] + GAP if left else MARGIN
    x_among = x_right + NODE[0] + GAP
    width = (x_among + LABEL[0] if among else x_right + NODE[0]) + MARGIN
    place = {**_column(left, MARGIN, height), **_column(right, x_right, height)}

    drawn: list[Html] = []
    for edge, y in _spread(across, place, height):
        start, end = place[str(edge["source"])], place[str(edge["target"])]
        drawn += [
            _curve((start[0] + NODE[0], start[1]), (x_label, y)),
            _curve((x_label + LABEL[0], y), (end[0], end[1]), arrow=name),
            _label(edge, (x_label, y)),
        ]
    for edge, y in _spread(among, place, height):
        start, end = place[str(edge["source"])], place[str(edge["target"])]
        # Out of the upper half of the source, into the lower half of the target: two edges never share a line.
        drawn += [
            _curve((start[0] + NODE[0], start[1] - 9), (x_among, y - 4)),
            _curve((x_among, y + 4), (end[0] + NODE[0], end[1] + 9), arrow=name),
            _label(edge, (x_among, y)),
        ]
    return tag(
        "svg",
        tag("title", title),
        tag("desc", _said(nodes, edges)),
        _arrow_head(name),
        drawn,
        (_node(node, place[str(node.get("name"))]) for node in nodes),
        class_="graph",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        style=f"max-width: {1.15 * width:.0f}px",
        role="img",
        aria_label=title,
    )


def _ends(edge: Mapping[str, Any]) -> tuple[str, str]:
    return str(edge.get("source")), str(edge.get("target"))


def _column(nodes: Sequence[Mapping[str, Any]], x: float, height: float) -> dict[str, Point]:
    """The middle of the left side of each node, spread evenly over the height."""
    step = height / max(1, len(nodes))
    return {str(node.get("name")): (x, step * (number + 0.5)) for number, node in enumerate(nodes)}


def _spread(
    edges: Sequence[Mapping[str, Any]], place: Mapping[str, Point], height: float
) -> list[tuple[Mapping[str, Any], float]]:
    """Each edge with the height of its label: in the order of its ends, so that few lines cross, and evenly apart."""
    ordered = sorted(edges, key=lambda edge: sum(place[end][1] for end in _ends(edge)))
    step = height / max(1, len(ordered))
    return [(edge, step * (number + 0.5)) for number, edge in enumerate(ordered)]


def _node(node: Mapping[str, Any], point: Point) -> Html:
    x, y = point
    learns = bool(node.get("learns"))
    kind = str(node.get("kind") or "")
    state = "learns" if learns else ("fixed" if kind == "Labels" else "frozen")
    said = f"{kind}, {state}" if kind and kind.lower() != str(node.get("name")).lower() else state
    return tag(
        "g",
        tag("title", f"{node.get('name')}: {said}"),
        tag("rect", x=f"{x}", y=f"{y - NODE[1] / 2}", width=str(NODE[0]), height=str(NODE[1]), rx="8"),
        _text(str(node.get("name")), x + NODE[0] / 2, y - 3, "name", 15),
        _text(said, x + NODE[0] / 2, y + 14, "state", 18),
        class_="node learns" if learns else "node",
    )


def _label(edge: Mapping[str, Any], point: Point) -> Html:
    x, y = point
    weight = edge.get("weight")
    tail = "" if weight in (None, 1, 1.0) else f" × {digits(float(weight))}"
    name = str(edge.get("objective") or "").split("(")[0] or "no objective"
    return tag(
        "g",
        tag("title", f"{edge.get('name')}: {edge.get('objective')}, weight {weight}"),
        tag("rect", x=f"{x}", y=f"{y - LABEL[1] / 2}", width=str(LABEL[0]), height=str(LABEL[1]), rx="12"),
        _text(_short(name, 20 - len(tail)) + tail, x + LABEL[0] / 2, y + 4, "objective", 40),
        class_="label",
    )


def _text(content: str, x: float, y: float, kind: str, most: int) -> Html:
    return tag("text", _short(content, most), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="middle", class_=kind)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _curve(start: Point, end: Point, *, arrow: str | None = None) -> Html:
    reach = (end[0] - start[0]) / 2 if end[0] != start[0] else GAP / 2
    path = f"M{start[0]:.1f} {start[1]:.1f}C{start[0] + reach:.1f} {start[1]:.1f} {end[0] - reach:.1f} {end[1]:.1f} "
    marker = None if arrow is None else f"url(#{arrow}-arrow)"
    return tag("path", d=path + f"{end[0]:.1f} {end[1]:.1f}", class_="line", marker_end=marker)


def _arrow_head(name: str) -> Html:
    head = tag("path", d="M0 0L8 4L0 8z", class_="arrow")
    size = {"markerWidth": "8", "markerHeight": "8", "refX": "8", "refY": "4"}
    return tag("defs", tag("marker", head, id=f"{name}-arrow", orient="auto", markerUnits="userSpaceOnUse", **size))


def _said(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]]) -> Html:
    learning = ", ".join(str(node.get("name")) for node in nodes if node.get("learns")) or "nobody"
    said = [f"{edge.get('source')} teaches {edge.get('target')} by {edge.get('objective')}." for edge in edges]
    return join(f"Learning: {learning}. ", " ".join(said))
