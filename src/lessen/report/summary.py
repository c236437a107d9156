"""The table at the end of a run, for the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from lessen.core.record import Record
from lessen.report.entries import Entry, entries
from lessen.report.metrics import headline, word
from lessen.report.mood import judge_mood
from lessen.report.numbers import NOTHING, digits, human, interval
from lessen.report.verdict import judge

LEGEND = "time: one batch of the smallest size; faster: than the teacher in the same runtime, timed interleaved"
"""Below the table. A time that reads "busy" is not known, because other processes disturbed it."""


SHORT = {
    "mean_squared_error": "squared error",
    "mean_average_precision": "mean AP",
    "cosine_to_teacher": "cosine",
    "mean_iou": "mean IoU",
}
"""What figures are called in the head of a narrow column."""


def summary(records: Sequence[Record], *, width: int = 100) -> str:
    """The teacher, the network after each step and each file: bytes, milliseconds, accuracy with its interval.

    Args:
        records: What was measured.
        width: Columns of the terminal.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    head, body = summary_rows(records)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", overflow="fold")
    for name in head[1:]:
        table.add_column(name, justify="right", no_wrap=name != "verified")
    for line in body:
        table.add_row(*map(Text, line))
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None, force_terminal=False)
    console.print(table)
    console.print(Text(LEGEND, style="dim"))
    console.print()
    verdict = judge(records)
    console.print(Text(judge_mood(verdict, records).words))
    console.print(Text(verdict.sentence))
    for warning in verdict.warnings:
        console.print(Text(f"! {warning}"))
    return stream.getvalue().rstrip()


def summary_rows(records: Sequence[Record]) -> tuple[list[str], list[tuple[str, ...]]]:
    """The head and the rows of the table, as text."""
    found = entries(records)
    quality = headline(found) or "accuracy"
    sizes = {row.settings.get("batch") for entry in found if (row := entry.get("latency")) is not None}
    head = ["", "size", "time", SHORT.get(quality, quality.replace("_", " ")), "faster", "verified"]
    return head, [_row(entry, quality, mixed=len(sizes) > 1) for entry in found]


def told(records: Sequence[Record]) -> str:
    """One network in a few words, for a line of a log: its bytes and its quality.

    >>> told([Record(subject="a", figure="bytes", value=2048.0, unit="B")])
    '2.00 KiB'
    """
    found = entries(records)
    if not found:
        return ""
    words = []
    for figure in ("bytes", headline(found)):
        record = None if figure is None else found[0].get(figure)
        if figure is not None and record is not None and record.value is not None:
            name = "" if figure == "bytes" else f"{word(figure)} "
            words.append(f"{name}{human(record.value, record.unit).strip()}")
    return ", ".join(words)


def _row(entry: Entry, quality: str, *, mixed: bool) -> tuple[str, ...]:
    """One row; `mixed` says that not all times are of the same batch size, so each says its own."""
    taken = entry.get("latency")
    batch = f" (batch {taken.settings['batch']})" if mixed and taken is not None and "batch" in taken.settings else ""
    ratio, record = entry.value("speedup"), entry.get(quality)
    shown = NOTHING if record is None else human(record.value, record.unit if record.unit != "1" else "").strip()
    spread = interval(record, record.unit if record is not None and record.unit != "1" else "")
    verified = {None: "", True: "yes", False: "no"}[entry.verified]
    return (
        entry.name,
        human(entry.value("bytes"), "B"),
        "busy" if entry.busy else human(entry.value("latency"), "ms") + batch,
        f"{shown} ({spread})" if spread else shown,
        NOTHING if ratio is None else f"{digits(ratio)} ×",
        verified + (f", {entry.recommended}" if entry.recommended else ""),
    )
