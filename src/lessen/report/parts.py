"""Small parts that several sections of the page are made of."""

from __future__ import annotations

from lessen.core.record import Record
from lessen.report.html import Html, join, tag
from lessen.report.numbers import NOTHING, human, interval


def nothing(text: str) -> Html:
    """A sentence where a part of the run is missing."""
    return tag("p", text, class_="none")


def cell(record: Record | None, unit: str | None = None) -> Html:
    """A value with its interval below it."""
    if record is None:
        return Html(NOTHING)
    unit = record.unit if unit is None else unit
    spread = interval(record, unit)
    return join(human(record.value, unit), tag("span", spread, class_="spread") if spread else None)


def how(record: Record) -> list[str]:
    """Batch size and threads of a timed value, as text."""
    settings = record.settings
    parts = [f"batch of {settings['batch']}"] if settings.get("batch") else []
    if settings.get("threads"):
        parts.append(f"{settings['threads']} thread{'s' if settings['threads'] != 1 else ''}")
    return parts
