"""The figures of the report, as plotly's own JSON: data and layout, without colours.

Colours are the page's business (`page.js` gives each trace one by its `meta`), so that a figure follows a change from
light to dark. Nothing here imports plotly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lessen.core.record import Record
from lessen.report.entries import Entry
from lessen.report.metrics import word
from lessen.report.numbers import human, interval

MOST_POINTS = 300
"""Longer training curves are drawn as means over equal stretches, at most so many."""

SHARES = {"accuracy", "agreement", "mean_iou", "iou", "f1", "f1_micro", "average_precision"}
"""Figures of the log that are shares in percent: the log does not say their unit."""

Figure = dict[str, Any]


def trade_off(found: Sequence[Entry], cost: str, quality: str) -> Figure | None:
    """Quality against cost (`bytes` or `latency`), one point for the network after each step and for each file.

    Points that lie together share a label with the numbers of their steps. None if nothing has both figures.
    """
    groups: dict[str, list[Entry]] = {}
    for entry in found:
        if entry.value(cost) and entry.value(quality) is not None:
            kind = f"{entry.runtime} int8" if entry.integer and entry.file else entry.runtime
            groups.setdefault(kind, []).append(entry)
    shown = [entry for group in groups.values() for entry in group]
    if not shown:
        return None
    record = shown[0].get(cost)
    unit = "B" if record is None else record.unit
    costs = [end for entry in shown for end in _span(entry.get(cost))]
    scores = [end for entry in shown for end in _span(entry.get(quality))]
    x = _padded([math.log10(value) for value in costs], 0.1, 0.1)
    y = _padded(scores, 0.08, 0.2)
    share = {row.unit for entry in shown if (row := entry.get(quality)) is not None} == {"%"}
    scale_y = _of_shares(y) if share else {"range": y}
    y = scale_y["range"]
    ticks = nice_ticks(10 ** x[0], 10 ** x[1], base=1024 if unit == "B" else 10)
    return {
        "data": [_points(name, group, cost, quality, number) for number, (name, group) in enumerate(groups.items())],
        "layout": {
            "xaxis": {
                "type": "log",
                "title": {"text": "size on disk" if cost == "bytes" else f"time of one batch{_batch(record)}"},
                "tickvals": ticks,
                "ticktext": [human(tick, unit).replace(".00", "").replace(".0 ", " ") for tick in ticks],
                "range": x,
            },
            "yaxis": {"title": {"text": _title(quality, shown[0].get(quality))}, **scale_y},
            "margin": {"l": 8, "r": 16, "t": 30, "b": 8},  # room for labels above points at 100 %
            "annotations": _labels(shown, cost, quality, x, y),
        },
        "summary": f"{len(shown)} points, from {human(min(costs), unit)} to {human(max(costs), unit)}.",
    }


def training_curves(log: Sequence[Mapping[str, Any]], stage: int) -> Figure | None:
    """The loss of every edge of a stage against the step, None if no step was logged."""
    rows = [row for row in log if row.get("kind") == "step" and row.get("stage") == stage]
    edges = list(dict.fromkeys(name for row in rows for name in row.get("edges", {})))
    traces = []
    for number, name in enumerate(edges):
        pairs = [
            (row["step"], row["edges"][name]["loss"])
            for row in rows
            if row.get("edges", {}).get(name, {}).get("loss") is not None
        ]
        if pairs:
            traces.append(_line(name, *thin(pairs), number))
    if not traces:
        return None
    stretch = math.ceil(len(rows) / MOST_POINTS)
    losses = [loss for trace in traces for loss in trace["y"]]
    scale: Figure = {"title": {"text": "loss"}}
    if min(losses) > 0 and max(losses) > 5 * min(losses):
        ticks = nice_ticks(min(losses), max(losses))
        scale |= {"type": "log", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "step" if stretch == 1 else f"step (means over {stretch} steps)"}},
            "yaxis": scale,
        },
        "summary": f"{len(traces)} curves over {len(rows)} steps.",
    }


def validation_curves(log: Sequence[Mapping[str, Any]], stage: int) -> Figure | None:
    """The figure that a stage is judged by, for every node that was validated, with the best one marked."""
    rows = [row for row in log if row.get("kind") == "validation" and row.get("stage") == stage]
    # The first metric of the task comes first in each row of the log.
    chosen = next((name for row in rows for figures in row.get("figures", {}).values() for name in figures), None)
    if chosen is None:
        return None
    nodes = list(dict.fromkeys(name for row in rows for name in row["figures"]))
    traces = []
    for number, node in enumerate(nodes):
        points = [(row, row["figures"][node][chosen]) for row in rows if chosen in row["figures"].get(node, {})]
        trace = _line(node, [row["step"] for row, _ in points], [value for _, value in points], number)
        trace["mode"] = "lines+markers"
        trace["marker"] = {
            "size": [11 if row.get("best") else 6 for row, _ in points],
            "symbol": ["star" if row.get("best") else "circle" for row, _ in points],
        }
        traces.append(trace)
    values = [value for trace in traces for value in trace["y"]]
    scale = _of_shares(_padded(values, 0.1, 0.1)) if chosen in SHARES and max(values) <= 100 else {}
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": "step (a star: the best so far)"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": _title(chosen, None)}, **scale},
        },
        "summary": f"{len(rows)} validations of {', '.join(nodes)}.",
    }


def thin(pairs: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` points: means over equal stretches.

    >>> thin([(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0)], most=2)
    ([0.5, 2.5], [2.0, 6.0])
    """
    stretch = math.ceil(len(pairs) / most)
    parts = [pairs[start : start + stretch] for start in range(0, len(pairs), stretch)]
    if stretch == 1:
        return [x for x, _ in pairs], [y for _, y in pairs]
    return ([sum(x for x, _ in part) / len(part) for part in parts],
            [sum(y for _, y in part) / len(part) for part in parts])  # fmt: skip


def nice_ticks(low: float, high: float, *, base: int = 10, most: int = 5) -> list[float]:
    """Round numbers between two ends of a logarithmic axis, at most about `most`; `base` 1024 for bytes.

    >>> nice_ticks(1500, 70000, base=1024)
    [2048, 5120, 10240, 20480, 51200]

    Where there are less than two round ones, two that lie inside: Plotly loses ticks at the very ends to rounding, and
    then places the title of the axis nowhere.
    """
    top = math.ceil(math.log(high, base)) + 1
    bottom = math.floor(math.log(low, base)) - 1
    tens = (1, 10, 100) if base == 1024 else (1,)
    for steps in ((1, 2, 5), (1, 3), (1,)) if high / low > 8 else ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 3)):
        places = (base**power * ten * step for power in range(bottom, top) for ten in tens for step in steps)
        found = sorted({place for place in places if low <= place <= high})
        if len(found) <= most:
            break
    return found if len(found) >= 2 else [low * (high / low) ** part for part in (0.25, 0.75)]


def _points(name: str, group: Sequence[Entry], cost: str, quality: str, number: int) -> Figure:
    network = group[0].file is None
    trace: Figure = {
        "type": "scatter",
        "name": _plain(name),
        "mode": "lines+markers" if network else "markers",
        "x": [entry.value(cost) for entry in group],
        "y": [entry.value(quality) for entry in group],
        "hovertext": [_hover(entry, cost, quality) for entry in group],
        "hoverinfo": "text",
        "meta": {"colour": number, "points": True, "name": name},
        "marker": {"size": 11, "symbol": "circle" if network else "diamond" if group[0].integer else "square"},
        "line": {"width": 1, "dash": "dot"},
        "cliponaxis": False,
    }
    for axis, figure in (("error_x", cost), ("error_y", quality)):
        if any(_has_interval(entry.get(figure)) for entry in group):
            spans = [(entry.value(figure) or 0.0, _span(entry.get(figure))) for entry in group]
            trace[axis] = {
                "type": "data",
                "symmetric": False,
                "array": [high - value for value, (_, high) in spans],
                "arrayminus": [value - low for value, (low, _) in spans],
            }
    return trace


def _labels(
    shown: Sequence[Entry], cost: str, quality: str, x: Sequence[float], y: Sequence[float]
) -> list[dict[str, Any]]:
    """The numbers of the steps above the points; points too close for labels of their own share one."""
    clusters: list[list[tuple[float, float, int]]] = []
    for entry in shown:
        place = math.log10(entry.value(cost) or 1.0), _span(entry.get(quality))[1]
        mine = [(*place, entry.step)]
        near = [cluster for cluster in clusters if any(_close(place, other, x, y) for other in cluster)]
        clusters = [cluster for cluster in clusters if cluster not in near]
        clusters.append([point for cluster in near for point in cluster] + mine)
    return [
        {
            "x": sum(point[0] for point in cluster) / len(cluster),
            "y": max(point[1] for point in cluster),
            "yshift": 12,
            "showarrow": False,
            "text": f"<b>{', '.join(map(str, sorted({point[2] for point in cluster})))}</b>",
        }
        for cluster in clusters
    ]


def _close(one: Sequence[float], other: Sequence[float], x: Sequence[float], y: Sequence[float]) -> bool:
    """Whether two points are nearer to each other than a label is large."""
    across, along = abs(one[0] - other[0]) / (x[1] - x[0]), abs(one[1] - other[1]) / (y[1] - y[0])
    return across < 0.09 and along < 0.14


def _padded(values: Sequence[float], below: float, above: float) -> list[float]:
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) * 0.1 or 1.0
    return [low - below * spread, high + above * spread]


def _of_shares(span: Sequence[float]) -> Figure:
    """The axis of a share in percent: it ends at 0 and at 100 at the latest, with ticks at round numbers.

    >>> _of_shares([93.2, 104.0])
    {'range': [93.2, 100.0], 'tickvals': [94, 96, 98, 100]}
    """
    low, high = max(0.0, span[0]), min(100.0, span[1])
    step = next(step for step in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if (high - low) / step <= 6 or step == 50)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return {"range": [low, high], "tickvals": [round(step * place, 6) for place in range(first, last + 1)]}


def _line(name: str, x: Sequence[float], y: Sequence[float], number: int) -> Figure:
    name = name.replace("->", " → ")
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _plain(name),
        "x": list(x),
        "y": list(y),
        "meta": {"colour": number, "name": name},
        "line": {"width": 1.75},
    }


def _hover(entry: Entry, cost: str, quality: str) -> str:
    lines = [f"{entry.name} (step {entry.step})"]
    for figure in (cost, quality):
        record = entry.get(figure)
        if record is not None:
            spread = interval(record)
            lines.append(human(record.value, record.unit) + (f" ({spread})" if spread else ""))
    return "<br>".join(_plain(line) for line in lines)


def _plain(text: str) -> str:
    """Text for plotly, which reads a little HTML in whatever it shows."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _has_interval(record: Record | None) -> bool:
    return record is not None and record.low is not None and record.high is not None


def _span(record: Record | None) -> tuple[float, float]:
    if record is None or record.value is None:
        return 1.0, 1.0
    low = record.value if record.low is None else record.low
    return low, record.value if record.high is None else record.high


def _batch(record: Record | None) -> str:
    batch = None if record is None else record.settings.get("batch")
    return "" if batch is None else f" of {batch}"


def _title(quality: str, record: Record | None) -> str:
    split = "" if record is None or not record.settings.get("split") else f" on the {record.settings['split']} split"
    unit = "" if record is None or record.unit == "1" else f", {record.unit}"
    return word(quality) + split + unit
