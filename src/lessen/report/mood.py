"""May this be used? The first line of the page and of the summary, in words and in a colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lessen.core.record import Record
from lessen.report.entries import Entry, entries, targets
from lessen.report.metrics import CLOSENESS, headline, higher_is_better, quality_change, word
from lessen.report.numbers import digits, human
from lessen.report.verdict import Verdict

RUINED_POINTS = 10.0
"""Points of a share from which on a loss ruins a network, whatever the interval."""
RUINED_PERCENT = 100.0
"""The same for figures that are not shares, in percent of the original value."""
CLEAR_POINTS = 3.0
"""A change within chance is called good if its interval reaches no further down than this, in points."""


@dataclass(frozen=True)
class Mood:
    """What to think of a result.

    Args:
        kind: "good", "careful" or "bad": green, amber or red; "open" where there is nothing to judge yet.
        words: The same in words.
    """

    kind: Literal["good", "careful", "bad", "open"]
    words: str


@dataclass(frozen=True)
class Loss:
    """How the quality of what is shipped changed; positive is worse.

    Args:
        figure: By which figure.
        lost: Points of a share; percent of the original value for other figures. None: it was not compared.
        low: Least that was lost, by the 95 % interval, or None.
        high: Most that was lost, likewise.
        share: Whether the numbers are points.
    """

    figure: str
    lost: float | None
    low: float | None = None
    high: float | None = None
    share: bool = True

    @property
    def words(self) -> str:
        """What was lost, for people."""
        name = word(self.figure)
        if self.share:
            return f"{abs(self.lost or 0):.2f} points of {name}"
        return f"{digits(abs(self.lost or 0))} % of the {name}"


def judge_mood(verdict: Verdict, records: Sequence[Record]) -> Mood:
    """Whether a result may be used, by its quality, its verification and its targets.

    Args:
        verdict: What is compared.
        records: All measurements of the run.
    """
    after = verdict.after
    found = entries(records)
    if after is None:
        return Mood("open", "There is nothing to judge yet.")
    teacher = next((entry for entry in found if entry.step == 0 and entry.file is None), None)
    files = [entry for entry in found if entry.file is not None and entry.step > 0 and entry.verified is not None]
    loss = lost(after, teacher)
    if loss is not None and loss.lost is not None and loss.lost >= (RUINED_POINTS if loss.share else RUINED_PERCENT):
        return Mood("bad", f"Do not use this: {_gone(loss)}.")
    missed = [record for record in targets(records) if record.value is not None and not record.value]
    for record in missed:
        if record.figure.endswith(("_drop", "_loss")):
            return Mood("bad", f"Do not use this: a target was missed, {_target(record)}.")
    if files and not any(entry.verified for entry in files):
        return Mood("bad", "Do not use this: no file passed verification.")
    if loss is None or loss.lost is None:
        return Mood("careful", "Careful: no quality was measured, so it is not known what was lost.")
    if loss.figure in CLOSENESS:
        return Mood("careful", "Careful: without labels, only closeness to the original network is known.")
    if missed:
        return Mood("careful", f"Careful: a target was missed, {_target(missed[0])}.")
    return _by_chance(loss)


def _by_chance(loss: Loss) -> Mood:
    """A loss that is no ruin: what chance has to do with it."""
    value = loss.lost or 0.0
    name = word(loss.figure)
    if loss.low is None or loss.high is None:
        if value <= 0:
            return Mood("good", f"Good: the {name} is no worse.")
        return Mood("careful", f"Careful: {_gone(loss)}; whether by chance is not known.")
    if loss.low > 0:
        return Mood("careful", f"Careful: {_gone(loss)}, more than chance explains.")
    if loss.high > CLEAR_POINTS and loss.share and value > 0:
        return Mood(
            "careful",
            f"Careful: up to {loss.high:.1f} points of {name} may be lost; there are too few examples to tell.",
        )
    return Mood("good", f"Good: no loss of {name} beyond chance.")


def lost(after: Entry, teacher: Entry | None) -> Loss | None:
    """How much worse the quality of an entry is than the teacher's; None where none was measured."""
    name = headline([after])
    now = None if name is None else after.get(name)
    if name is None or now is None or now.value is None:
        return None
    if name in CLOSENESS:
        whole = 100.0 if now.unit == "%" else 1.0
        return Loss(name, 100 * (whole - now.value) / whole, share=now.unit == "%")
    change, was = quality_change(after, teacher), None if teacher is None else teacher.value(name)
    if change is None or change.value is None:
        return Loss(name, None)
    sign = -1 if higher_is_better(now) else 1
    if change.unit == "points":
        ends = [sign * end for end in (change.low, change.high) if end is not None]
        low, high = (min(ends), max(ends)) if len(ends) == 2 else (None, None)
        return Loss(name, sign * change.value, low, high)
    if was is None:
        return Loss(name, None)
    return Loss(name, 100 * sign * change.value / max(abs(was), 1e-12), share=False)


def _gone(loss: Loss) -> str:
    if loss.figure in CLOSENESS:
        return f"it gives other answers than the original network ({loss.words} missing)"
    if loss.share:
        return f"{loss.words} {'was' if loss.words.startswith('1.00 ') else 'were'} lost"
    return f"the {word(loss.figure)} is {digits(loss.lost or 0)} % worse"


def _target(record: Record) -> str:
    unit, name = str(record.detail.get("unit", "")), record.figure.removeprefix("target_").replace("_", " ")
    limit, found = (human(record.detail.get(key), unit) for key in ("asked", "found"))
    return f"{name} ({limit} required, {found} measured)"
