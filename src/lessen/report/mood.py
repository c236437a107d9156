"""May this be used? The first line of the page and of the summary, in words and in a colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lessen.core.record import Record
from lessen.report.entries import Entry, entries, targets
from lessen.report.numbers import digits, human
from lessen.report.verdict import Verdict

RUINED_POINTS = 10.0
"""Points of a share from which on a loss ruins a network, whatever the interval."""
RUINED_PERCENT = 100.0
"""The same for figures that are not shares, in percent of the original value."""
CLEAR_POINTS = 3.0
"""A change within chance is called good if its interval reaches no further down than this, in points."""

_LOWER_IS_BETTER = {
    "mean_squared_error",
    "nll",
    "calibration_error",
    "kl_to_teacher",
    "error_to_teacher",
    "rmse",
    "mae",
}
_USUAL = ("accuracy", "mean_squared_error", "agreement", "cosine_to_teacher")


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
        name = self.figure.replace("_", " ")
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
    if loss.figure in {"agreement", "cosine_to_teacher"}:
        return Mood("careful", "Careful: without labels, only closeness to the original network is known.")
    if missed:
        return Mood("careful", f"Careful: a target was missed, {_target(missed[0])}.")
    return _by_chance(loss)


def _by_chance(loss: Loss) -> Mood:
    """A loss that is no ruin: what chance has to do with it."""
    value = loss.lost or 0.0
    name = loss.figure.replace("_", " ")
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
    name = _headline(after)
    if name is None:
        return None
    now, paired = after.get(name), after.get(f"{name}_change")
    was = None if teacher is None else teacher.get(name)
    better = _higher_is_better(name, paired or now)
    if name in {"agreement", "cosine_to_teacher"} and now is not None and now.value is not None:
        whole = 100.0 if now.unit == "%" else 1.0
        return Loss(name, 100 * (whole - now.value) / whole, share=now.unit == "%")
    share = (paired or now or Record(subject="", figure="", value=None, unit="")).unit in {"%", "points"}
    if paired is not None and paired.value is not None and share:
        ends = [None if end is None else -end if better else end for end in (paired.low, paired.high)]
        low, high = (ends[1], ends[0]) if better else (ends[0], ends[1])
        return Loss(name, -paired.value if better else paired.value, low, high)
    if now is None or was is None or now.value is None or was.value is None:
        return Loss(name, None)
    worse = was.value - now.value if better else now.value - was.value
    return Loss(name, worse, share=True) if share else Loss(name, 100 * worse / max(abs(was.value), 1e-12), share=False)


def _headline(after: Entry) -> str | None:
    """The figure that networks are judged by: the one the task says, or a usual one."""
    for name, rows in after.figures.items():
        if rows[0].detail.get("headline"):
            return name
    return next((name for name in _USUAL if after.value(name) is not None), None)


def _higher_is_better(name: str, record: Record | None) -> bool:
    """The direction of a figure: as its record says, or as is usual."""
    said: Any = None if record is None else record.detail.get("higher_is_better")
    return name not in _LOWER_IS_BETTER if said is None else bool(said)


def _gone(loss: Loss) -> str:
    if loss.figure in {"agreement", "cosine_to_teacher"}:
        return f"it gives other answers than the original network ({loss.words} missing)"
    if loss.share:
        return f"{loss.words} {'was' if loss.words.startswith('1.00 ') else 'were'} lost"
    return f"the {loss.figure.replace('_', ' ')} is {digits(loss.lost or 0)} % worse"


def _target(record: Record) -> str:
    unit, name = str(record.detail.get("unit", "")), record.figure.removeprefix("target_").replace("_", " ")
    limit, found = (human(record.detail.get(key), unit) for key in ("asked", "found"))
    return f"{name} ({limit} required, {found} measured)"
