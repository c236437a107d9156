"""The head of the page: three figures, large, and what to know before using the result."""

from __future__ import annotations

from lessen.core.record import Record
from lessen.report.entries import Entry
from lessen.report.html import Html, tag
from lessen.report.metrics import headline, quality_change, word
from lessen.report.numbers import NOTHING, digits, human, interval, times
from lessen.report.parts import how
from lessen.report.verdict import Verdict, speedup


def tiles(verdict: Verdict, teacher: Entry | None, kind: str = "") -> Html | None:
    """The three figures that matter, large: size, time, quality."""
    before, after = verdict.before, verdict.after
    if after is None:
        return None
    return tag(
        "dl",
        _size_tile(before, after),
        _time_tile(before, after),
        _quality_tile(after, teacher),
        class_=f"tiles {kind}".strip(),
    )


def warnings(verdict: Verdict) -> Html | None:
    """What a reader must know before using the result."""
    if not verdict.warnings:
        return None
    items = tag("ul", (tag("li", text) for text in verdict.warnings))
    return tag("aside", tag("h2", "Before you use it"), items, class_="warnings", aria_label="Warnings")


def _tile(title: str, big: str, spread: str, small: str, kind: str = "") -> Html:
    return tag(
        "div",
        tag("dt", title),
        tag("dd", big, tag("span", f"95 %: {spread}", class_="spread") if spread else None, class_="big"),
        tag("dd", small, class_="from"),
        class_=f"tile {kind}".strip(),
    )


def _size_tile(before: Entry | None, after: Entry) -> Html:
    was, now = None if before is None else before.value("bytes"), after.value("bytes")
    if not was or not now:
        return _tile("Size on disk", human(now, "B"), "", "no reference to compare with")
    big = times(was, now)
    return _tile("Size on disk", big, "", f"{human(was, 'B')} → {human(now, 'B')}")


def _time_tile(before: Entry | None, after: Entry) -> Html:
    ratio, latency = speedup(after, before), after.get("latency")
    was = None if before is None else before.value("latency")
    now = None if latency is None else latency.value
    small = f"{human(was, 'ms')} → {human(now, 'ms')}" if was else human(now, "ms")
    if latency is not None:
        small += "".join(f", {text}" for text in how(latency))
    if after.busy:
        return _tile("Time", "not known", "", "the machine was busy")
    if ratio is None or not ratio.value:
        return _tile("Time", human(now, "ms"), "", small)
    if ratio.value >= 1:
        return _tile("Time", f"{digits(ratio.value)} times faster", interval(ratio, "ratio"), small)
    turned = Record(subject="", figure="", value=1 / ratio.value, unit="1",
                    low=1 / ratio.high if ratio.high else None, high=1 / ratio.low if ratio.low else None)  # fmt: skip
    return _tile("Time", f"{digits(1 / ratio.value)} times slower", interval(turned, "ratio"), small)


def _quality_tile(after: Entry, teacher: Entry | None) -> Html:
    name = headline([entry for entry in (teacher, after) if entry is not None])
    now = None if name is None else after.get(name)
    if name is None or now is None:
        return _tile("Quality", NOTHING, "", "not measured", "quality")
    title = word(name)
    title = title[0].upper() + title[1:]
    change, was = quality_change(after, teacher), None if teacher is None else teacher.get(name)
    shown = human(now.value, now.unit)
    small = shown if was is None else f"{human(was.value, was.unit)} → {shown}"
    if now.settings.get("split"):
        small += f", {now.settings['split']} split"
    if change is not None and change.value is not None and change.unit == "points":
        return _tile(title, f"{change.value:+.2f} points".replace("-", "−"), interval(change), small, "quality")
    return _tile(title, shown, interval(now), small, "quality")
