"""How a run shows itself in a notebook: a short table and one small picture, as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lessen.core.record import Record
from lessen.report.entries import entries
from lessen.report.metrics import headline, word
from lessen.report.mood import judge_mood
from lessen.report.summary import summary_rows
from lessen.report.svg import curves, intervals, table
from lessen.report.verdict import judge

MOST_POINTS = 200


def shown_records(records: Sequence[Record], report: Path) -> str:
    """The verdict, the table of the terminal, and the quality of each network and file with its interval."""
    found = entries(records)
    quality = headline(found)
    rows = [
        (entry.name, record.value, _half(record), ())
        for entry in found
        if quality is not None and (record := entry.get(quality)) is not None and record.value is not None
    ]
    unit = next((record.unit for entry in found if quality and (record := entry.get(quality)) is not None), "1")
    axis = "" if quality is None else word(quality) + ("" if unit == "1" else f" ({unit})")
    verdict = judge(records)
    said = [judge_mood(verdict, records).words, verdict.sentence, *(f"! {each}" for each in verdict.warnings)]
    parts = [f"<p>{escape(each)}</p>" for each in said if each]
    head, body = summary_rows(records)
    where = f"<p>Report: <code>{escape(str(report))}</code></p>"
    return f"<div>{''.join(parts)}{table(head, body)}{intervals(rows, x=axis)}{where}</div>"


def shown_looks(looks: Sequence[Mapping[str, Any]], best: Mapping[str, Mapping[str, float]]) -> str:
    """Looks at the validation split: the first figure of each network against the steps of all stages, and the best.

    Args:
        looks: Rows of the log.
        best: For each network its best figures.
    """
    chosen = next((name for row in looks for found in row["figures"].values() for name in found), None)
    if chosen is None:
        return "<p>There was no look at the validation split.</p>"
    series: dict[str, list[tuple[float, float]]] = {}
    start, last, stage = 0, 0, None
    for row in looks:
        if row["stage"] != stage:
            start, stage = start + last, row["stage"]
        last = row["step"]
        for node, found in row["figures"].items():
            if chosen in found:
                series.setdefault(node, []).append((start + last, found[chosen]))
    series = {node: points[:: max(1, len(points) // MOST_POINTS)] for node, points in series.items()}
    names = list(dict.fromkeys(name for found in best.values() for name in found))
    body = [[node, *(f"{found[name]:.4g}" if name in found else "" for name in names)] for node, found in best.items()]
    head = ["best on validation", *(name.replace("_", " ") for name in names)]
    return f"<div>{table(head, body)}{curves(series, x='step', y=chosen.replace('_', ' '))}</div>"


def _half(record: Record) -> float:
    return 0.0 if record.low is None or record.high is None else (record.high - record.low) / 2
