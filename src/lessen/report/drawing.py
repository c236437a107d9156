"""A transfer graph as a picture: who teaches on the left, who learns on the right, what is taught in between.

Each edge runs through a label of its own, in a column that keeps labels apart, so that a graph in which everybody
teaches everybody can still be read. Edges between two learners have their labels in a second column, on the right:
a dashed line leaves the one that teaches, an arrow arrives at the one that learns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lessen.report.html import Html, join, tag

NODE, LABEL, GAP = (104, 46), (136, 24), 34
"""Width and least height of a node, width and height of a label, and the space between columns, in pixels."""
ROW, TALL_ROW, PORT, MARGIN = 34, 50, 13, 8
"""Height that a label of one and of two lines takes, space between lines at a node, and the margin."""

Point = tuple[float, float]
Edge = Mapping[str, Any]


@dataclass(frozen=True)
class _Place:
    """A node's position: its left side, its middle and its height."""

    x: float
    y: float
    height: float


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
    across = [edge for edge in edges if _ends(edge)[0] not in learners]
    among = [edge for edge in edges if _ends(edge)[0] in learners]

    x_label = MARGIN + NODE[0] + GAP if left else MARGIN
    x_right = x_label + LABEL[0] + GAP if left else MARGIN
    x_among = x_right + NODE[0] + 2 * GAP
    width = (x_among + LABEL[0] if among else x_right + NODE[0]) + MARGIN
    heights = {str(node.get("name")): _height(str(node.get("name")), across, among) for node in nodes}
    columns = [sum(heights[str(node.get("name"))] + 20 for node in column) for column in (left, right)]
    height = 2 * MARGIN + max(ROW * len(across), TALL_ROW * len(among), *columns)
    place = _column(left, MARGIN, height, heights) | _column(right, x_right, height, heights)

    drawn: list[Html] = []
    rows = _spread(across, place, height)
    leaving, arriving = (_ports(rows, place, end) for end in (0, 1))
    for number, (edge, y) in enumerate(rows):
        start, end = (place[end] for end in _ends(edge))
        drawn += [
            _curve((start.x + NODE[0], leaving[number]), (x_label, y)),
            _curve((x_label + LABEL[0], y), (end.x, arriving[number]), arrow=name),
            _label(edge, x_label, y, two_lines=False),
        ]
    rows = _spread(among, place, height)
    leaving, arriving = _ports(rows, place, 0, 1)[: len(rows)], _ports(rows, place, 0, 1)[len(rows) :]
    for number, (edge, y) in enumerate(rows):
        drawn += [
            _curve((x_right + NODE[0], leaving[number]), (x_among, y - 6), dashed=True),
            _curve((x_among, y + 6), (x_right + NODE[0], arriving[number]), arrow=name),
            _label(edge, x_among, y, two_lines=True),
        ]
    picture = tag(
        "svg",
        tag("title", title),
        tag("desc", _said(nodes, edges, graph.get("turns"))),
        _arrow_head(name),
        drawn,
        (_node(node, place[str(node.get("name"))]) for node in nodes),
        class_="graph",
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        style=f"min-width: {min(0.8 * width, 470):.0f}px; max-width: {1.2 * width:.0f}px",
        role="img",
        aria_label=title,
    )
    return tag("div", picture, class_="drawing", tabindex="0", role="region", aria_label=title)


def _ends(edge: Edge) -> tuple[str, str]:
    """Source and target; a penalty, which has no source, is drawn as a line from its target to itself."""
    target = str(edge.get("target"))
    return (target if edge.get("source", "") is None else str(edge.get("source"))), target


def _height(name: str, across: Sequence[Edge], among: Sequence[Edge]) -> float:
    """High enough for a port for every line on its busier side."""
    busy = max(sum(name in _ends(edge) for edge in across), sum(_ends(edge).count(name) for edge in among))
    return max(float(NODE[1]), PORT * busy + 6.0)


def _column(
    nodes: Sequence[Mapping[str, Any]], x: float, height: float, heights: Mapping[str, float]
) -> dict[str, _Place]:
    """Nodes below each other, with the free height shared evenly between them."""
    names = [str(node.get("name")) for node in nodes]
    free = (height - sum(heights[name] for name in names)) / max(1, len(names))
    found, top = {}, free / 2
    for name in names:
        found[name] = _Place(x, top + heights[name] / 2, heights[name])
        top += heights[name] + free
    return found


def _spread(edges: Sequence[Edge], place: Mapping[str, _Place], height: float) -> list[tuple[Edge, float]]:
    """Each edge with the height of its label: in the order of its ends, so that few lines cross, and evenly apart."""
    ordered = sorted(edges, key=lambda edge: sum(place[end].y for end in _ends(edge)))
    step = height / max(1, len(ordered))
    return [(edge, step * (number + 0.5)) for number, edge in enumerate(ordered)]


def _ports(rows: Sequence[tuple[Edge, float]], place: Mapping[str, _Place], *ends: int) -> list[float]:
    """Where each line meets its node, one below the other in the order of the labels they lead to.

    For each of `ends` (0 the source, 1 the target), the ports of all rows: several ends share one side of a node.
    """
    lines = [(_ends(edge)[end], y + (6 if end else -6)) for end in ends for edge, y in rows]
    found = [0.0] * len(lines)
    for name in {name for name, _ in lines}:
        mine = [number for number, (of, _) in enumerate(lines) if of == name]
        mine.sort(key=lambda number: lines[number][1])
        for rank, number in enumerate(mine):
            found[number] = place[name].y + PORT * (rank - (len(mine) - 1) / 2)
    return found


def _node(node: Mapping[str, Any], at: _Place) -> Html:
    learns = bool(node.get("learns"))
    kind = str(node.get("kind") or "")
    state = "learns" if learns else ("fixed" if kind in {"Labels", "OtherData"} else "frozen")
    if not learns and _names(node.get("moves")):
        state = f"moves {', '.join(_names(node.get('moves')))}"
    said = f"{kind}, {state}" if kind and kind.lower() != str(node.get("name")).lower() else state
    return tag(
        "g",
        tag("title", f"{node.get('name')}: {said}"),
        tag("rect", x=f"{at.x}", y=f"{at.y - at.height / 2}", width=str(NODE[0]), height=str(at.height), rx="8"),
        _text(str(node.get("name")), at.x + NODE[0] / 2, at.y - 3, "name", 14),
        _text(said, at.x + NODE[0] / 2, at.y + 14, "state", 18),
        class_="node learns" if learns else "node",
    )


def _label(edge: Edge, x: float, y: float, *, two_lines: bool) -> Html:
    weight = edge.get("weight")
    tail = "" if weight in (None, 1, 1.0) else f" × {float(weight):.3g}"
    name = str(edge.get("objective") or "").split("(")[0] or "no objective"
    high = LABEL[1] + (16 if two_lines else 0)
    said = _short(name, 19 - len(tail)) + tail
    middle = x + LABEL[0] / 2
    return tag(
        "g",
        tag("title", f"{edge.get('name')}: {edge.get('objective')}, weight {weight}"),
        tag("rect", x=f"{x}", y=f"{y - high / 2}", width=str(LABEL[0]), height=str(high), rx="12"),
        _text(" → ".join(_short(end, 9) for end in _ends(edge)), middle, y - 4, "state", 40) if two_lines else None,
        _text(said, middle, y + (12 if two_lines else 4), "objective", 40),
        class_="label",
    )


def _text(content: str, x: float, y: float, kind: str, most: int) -> Html:
    return tag("text", _short(content, most), x=f"{x:.1f}", y=f"{y:.1f}", text_anchor="middle", class_=kind)


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _curve(start: Point, end: Point, *, arrow: str | None = None, dashed: bool = False) -> Html:
    reach = (end[0] - start[0]) / 2
    points = (start, (start[0] + reach, start[1]), (end[0] - reach, end[1]), end)
    first, *rest = (f"{x:.1f} {y:.1f}" for x, y in points)
    marker = None if arrow is None else f"url(#{arrow}-arrow)"
    return tag("path", d=f"M{first}C{' '.join(rest)}", class_="line out" if dashed else "line", marker_end=marker)


def _arrow_head(name: str) -> Html:
    head = tag("path", d="M0 0L8 4L0 8z", class_="arrow")
    size = {"markerWidth": "8", "markerHeight": "8", "refX": "8", "refY": "4"}
    return tag("defs", tag("marker", head, id=f"{name}-arrow", orient="auto", markerUnits="userSpaceOnUse", **size))


def moved(edge: Edge) -> str:
    """Which nodes the loss of an edge moves, and which way, where it says so: "generator up, student down"."""
    moves = edge.get("moves")
    if not isinstance(moves, Mapping):
        return ""
    ways = ((name, float(factor)) for name, factor in moves.items() if isinstance(factor, int | float))
    return ", ".join(
        f"{name} {'down' if factor > 0 else 'up'}{'' if abs(factor) == 1 else f' × {abs(factor):.3g}'}"
        for name, factor in ways
    )


def turned(turns: Any) -> str:
    """The turns of a stage in words: "generator 1, student 5"; empty where there are none."""
    found = turns if isinstance(turns, list) else []
    pairs = [turn for turn in found if isinstance(turn, list) and len(turn) == 2]
    return ", ".join(f"{' and '.join(_names(names))} {steps}" for names, steps in pairs)


def _names(value: Any) -> list[str]:
    """Names: one, or several."""
    return [str(name) for name in value] if isinstance(value, list) else [value] if isinstance(value, str) else []


def _said(nodes: Sequence[Mapping[str, Any]], edges: Sequence[Mapping[str, Any]], turns: Any) -> Html:
    learning = ", ".join(str(node.get("name")) for node in nodes if node.get("learns")) or "nobody"
    said = [
        f"{edge.get('objective')} acts on {edge.get('target')}."
        if edge.get("source", "") is None
        else f"{edge.get('source')} teaches {edge.get('target')} by {edge.get('objective')}."
        for edge in edges
    ]
    said = [f"{line} It moves {moved(edge)}." if moved(edge) else line for line, edge in zip(said, edges, strict=True)]
    read = [(node.get("name"), " and ".join(_names(node.get("reads")))) for node in nodes]
    said += [f"{name} reads {what}." for name, what in read if what]
    said += [f"Steps by turns: {turned(turns)}."] if turned(turns) else []
    return join(f"Learning: {learning}. ", " ".join(said))
