"""Small pictures as SVG text, for a notebook and for a file: nothing is drawn by a browser's script.

Colours follow the page around them (`currentColor`); series differ in a fixed list of colours and in their labels.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

from lessen.report.numbers import digits

COLOURS = ("#4c78a8", "#e45756", "#54a24b", "#b279a2", "#f58518", "#72b7b2")
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 460, 180, 52, 26


def curves(series: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str) -> str:
    """Lines through points, one for each name.

    Args:
        series: The points of each line.
        x: What the horizontal axis is called.
        y: What the vertical axis is called.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        return ""
    left, right = _span([point[0] for point in points])
    low, high = _span([point[1] for point in points])

    def place(point: tuple[float, float]) -> str:
        across = _LEFT + (point[0] - left) / (right - left) * (_WIDTH - _LEFT - 10)
        up = 14 + (high - point[1]) / (high - low) * (_HEIGHT - _BOTTOM - 20)
        return f"{across:.1f},{up:.1f}"

    parts = _frame(low, high, left, right, x=x, y=y)
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        parts.append(
            f'<polyline fill="none" stroke="{colour}" stroke-width="1.6" points="{" ".join(map(place, line))}">'
            f"<title>{html.escape(name)}</title></polyline>"
        )
        for point in line if len(line) <= 40 else ():
            cx, cy = place(point).split(",")
            parts.append(f'<circle cx="{cx}" cy="{cy}" r="2.4" fill="{colour}"/>')
        if len(series) > 1 and number < 8:
            parts.append(
                f'<text x="{_WIDTH - 12}" y="{26 + 13 * number}" text-anchor="end" fill="{colour}">'
                f"{html.escape(name[:40])}</text>"
            )
    return _whole(parts, _HEIGHT, f"{y} against {x}: {', '.join(series)}")


def intervals(rows: Sequence[tuple[str, float, float, Sequence[float]]], *, x: str) -> str:
    """One line a row: its name, its mean with a spread to both sides, and its single values as fainter points.

    Args:
        rows: Name, mean, spread and values of each.
        x: What the axis is called.
    """
    if not rows:
        return ""
    reach = [value for _, mean, spread, values in rows for value in (mean - spread, mean + spread, *values)]
    left, right = _span(reach)
    start, height = 190, 22 * len(rows) + _BOTTOM + 12

    def across(value: float) -> float:
        return start + (value - left) / (right - left) * (_WIDTH - start - 14)

    parts = []
    for number, (name, mean, spread, values) in enumerate(rows):
        up = 16 + 22 * number
        parts.append(f'<text x="{start - 10}" y="{up + 4}" text-anchor="end">{html.escape(name[:32])}</text>')
        parts += [
            f'<circle cx="{across(v):.1f}" cy="{up}" r="2.4" fill="currentColor" opacity="0.35"/>' for v in values
        ]
        parts.append(
            f'<line x1="{across(mean - spread):.1f}" x2="{across(mean + spread):.1f}" y1="{up}" y2="{up}" '
            f'stroke="{COLOURS[0]}" stroke-width="2"/>'
        )
        parts.append(
            f'<circle cx="{across(mean):.1f}" cy="{up}" r="4" fill="{COLOURS[0]}">'
            f"<title>{html.escape(name)}: {digits(mean)}</title></circle>"
        )
    line = height - _BOTTOM
    parts.append(f'<line x1="{start}" x2="{_WIDTH - 14}" y1="{line}" y2="{line}" stroke="currentColor" opacity="0.4"/>')
    parts.append(f'<text x="{start}" y="{line + 15}">{digits(left)}</text>')
    parts.append(f'<text x="{_WIDTH - 14}" y="{line + 15}" text-anchor="end">{digits(right)}</text>')
    parts.append(f'<text x="{(start + _WIDTH) / 2}" y="{line + 15}" text-anchor="middle">{html.escape(x)}</text>')
    return _whole(parts, height, f"{x} of {', '.join(row[0] for row in rows)}")


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table as HTML, all text escaped."""
    lines = ["".join(f"<td>{html.escape(cell)}</td>" for cell in line) for line in body]
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"


def _frame(low: float, high: float, left: float, right: float, *, x: str, y: str) -> list[str]:
    bottom = _HEIGHT - _BOTTOM - 6
    line = 'stroke="currentColor" opacity="0.4"'
    return [
        f'<line x1="{_LEFT}" x2="{_LEFT}" y1="14" y2="{bottom}" {line}/>',
        f'<line x1="{_LEFT}" x2="{_WIDTH - 10}" y1="{bottom}" y2="{bottom}" {line}/>',
        f'<text x="{_LEFT - 5}" y="20" text-anchor="end">{digits(high)}</text>',
        f'<text x="{_LEFT - 5}" y="{bottom}" text-anchor="end">{digits(low)}</text>',
        f'<text x="{_LEFT}" y="{bottom + 16}">{digits(left)}</text>',
        f'<text x="{_WIDTH - 10}" y="{bottom + 16}" text-anchor="end">{digits(right)}</text>',
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{bottom + 16}" text-anchor="middle">{html.escape(x)}</text>',
        f'<text x="{_LEFT + 6}" y="11">{html.escape(y)}</text>',
    ]


def _whole(parts: Sequence[str], height: int, says: str) -> str:
    title = f"<title>{html.escape(says[:200])}</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}" '
        f'role="img" font-family="sans-serif" font-size="11" fill="currentColor">{title}'
        f"{''.join(parts)}</svg>"
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or abs(high) * 0.05 or 1.0
    return low - room, high + room
