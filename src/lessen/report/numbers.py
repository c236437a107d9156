"""Numbers as people read them: three digits that matter, and a unit."""

from __future__ import annotations

import math

from lessen.core.record import Record

NOTHING = "–"
"""Shown in place of a missing value."""


def human(value: float | None, unit: str) -> str:
    """A value with its unit.

    >>> human(1536, "B"), human(0.04213, "ms"), human(93.456, "%"), human(1_234_567, "1")
    ('1.50 KiB', '0.0421 ms', '93.46 %', '1.23 M')
    """
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return str(value)
    if value < 0:
        return f"−{human(-value, unit)}"
    if unit == "B":
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if unit == "1":
        return _scaled(value, 1000, ("", "k", "M", "G", "T")).rstrip()
    if unit in {"%", "points"}:
        return f"{value:.2f} {unit}"
    if unit == "ratio":
        return f"{digits(value)} ×"
    return f"{digits(value)} {unit}"


def digits(value: float) -> str:
    """A number with three digits that matter; integers from 100 on.

    >>> digits(1234.5), digits(12.345), digits(0.00123456), digits(0.0), digits(3e-9)
    ('1234', '12.3', '0.00123', '0', '3.00e-09')
    """
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-4 or size >= 1e6:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(size)))}f}"


def times(before: float, after: float) -> str:
    """How sizes changed; one spelling everywhere.

    >>> times(390.0, 100.0), times(100.0, 150.0), times(100.0, 100.1)
    ('3.90 times smaller', '1.50 times larger', 'as large')
    """
    if after > 1.005 * before:
        return f"{digits(after / before)} times larger"
    return f"{digits(before / after)} times smaller" if before > 1.005 * after else "as large"


def interval(record: Record | None, unit: str | None = None) -> str:
    """The 95 % interval of a record without its unit, or nothing.

    >>> interval(Record(subject="a", figure="accuracy", value=93.0, unit="%", low=92.46, high=93.51))
    '92.46 to 93.51'
    """
    if record is None or record.low is None or record.high is None:
        return ""
    unit = record.unit if unit is None else unit
    low, high = human(record.low, unit), human(record.high, unit)
    if unit not in {"B", "1"}:
        low, high = (text.rsplit(" ", 1)[0] for text in (low, high))
    return f"{low} to {high}"


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    place, size = 0, value
    while size >= base and place < len(names) - 1:
        size /= base
        place += 1
    if place == 0:
        whole = f"{value:.0f}" if value == round(value) else digits(value)
        return f"{whole} {names[0]}"
    return f"{size:.{2 if size < 10 else 1 if size < 100 else 0}f} {names[place]}"
