"""The picture of a graph holds every node and edge, inside its frame, and nothing lies on anything else."""

import itertools
import re
from xml.etree import ElementTree

import pytest

from lessen.report.drawing import draw_graph

SVG = ElementTree.Element


def offline() -> dict:
    nodes = [("labels", "Labels", False), ("teacher", "Network", False), ("student", "Network", True)]
    edges = [("labels", "student"), ("teacher", "student"), ("teacher", "student")]
    return graph(nodes, edges)


def mutual(count: int) -> dict:
    names = [f"peer{number}" for number in range(count)]
    edges = [("labels", name) for name in names] + list(itertools.permutations(names, 2))
    return graph([("labels", "Labels", False), *((name, "Network", True) for name in names)], edges)


def alone() -> dict:
    return graph([("student", "Network", True)], [("student", "student")])


def graph(nodes: list, edges: list) -> dict:
    return {
        "nodes": [{"name": name, "kind": kind, "learns": learns} for name, kind, learns in nodes],
        "edges": [
            {"name": f"{a}->{b}", "source": a, "target": b, "objective": "SoftTargets(temperature=4.0)", "weight": 0.5}
            for a, b in edges
        ],
    }


GRAPHS = {"offline": offline(), "three peers": mutual(3), "five peers": mutual(5), "itself": alone()}


def parsed(made: dict, **options) -> SVG:
    return ElementTree.fromstring(draw_graph(made, title="A graph", name="g", **options)).find("svg")


def boxes(svg: SVG) -> list[tuple[float, float, float, float]]:
    rects = [rect for group in svg.findall("g") for rect in group.findall("rect")]
    found = [[float(rect.get(key)) for key in ("x", "y", "width", "height")] for rect in rects]
    return [(x, y, x + width, y + height) for x, y, width, height in found]


def check_apart(svg: SVG) -> None:
    _, _, width, height = map(float, svg.get("viewBox").split())
    for left, top, right, bottom in boxes(svg):
        assert left >= 0
        assert top >= 0
        assert right <= width
        assert bottom <= height
    for a, b in itertools.combinations(boxes(svg), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (a, b)


@pytest.mark.parametrize("name", GRAPHS)
def test_nodes_and_labels_lie_apart_and_inside(name: str) -> None:
    svg = parsed(GRAPHS[name])
    assert len(boxes(svg)) == len(GRAPHS[name]["nodes"]) + len(GRAPHS[name]["edges"])
    check_apart(svg)


def test_boxes_on_top_of_each_other_are_found() -> None:
    svg = parsed(mutual(3))
    rects = [rect for group in svg.findall("g") for rect in group.findall("rect")]
    rects[0].set("y", rects[1].get("y"))
    rects[0].set("x", rects[1].get("x"))
    with pytest.raises(AssertionError):
        check_apart(svg)


@pytest.mark.parametrize("name", GRAPHS)
def test_every_edge_has_a_line_in_and_an_arrow_out_and_no_two_arrows_meet(name: str) -> None:
    lines = [path for path in parsed(GRAPHS[name]).findall("path") if "line" in path.get("class")]
    arrows = [path for path in lines if path.get("marker-end")]
    assert len(lines) == 2 * len(GRAPHS[name]["edges"])
    assert len(arrows) == len(GRAPHS[name]["edges"])
    ends = [tuple(re.findall(r"-?[\d.]+", path.get("d"))[-2:]) for path in arrows]
    assert len(set(ends)) == len(ends)


def test_who_learns_is_said_and_not_only_shown() -> None:
    svg = parsed(offline())
    said = [title.text for title in svg.iter("title")]
    assert "student: Network, learns" in said
    assert "teacher: Network, frozen" in said
    assert "labels: fixed" in said
    assert "Learning: student." in svg.find("desc").text


def test_a_long_and_hostile_name_is_only_text() -> None:
    made = graph([("<script>alert(1)</script>" * 3, "Network", True)], [("<b>", "<script>alert(1)</script>" * 3)])
    svg = parsed(made)
    assert not list(svg.iter("script"))
    assert any("<scr" in (text.text or "") for text in svg.iter("text"))
    check_apart(svg)
