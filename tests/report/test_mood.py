"""The first line says whether a result may be used; a ruined network never looks like a triumph."""

from typing import Any

import pytest

from lessen.core.record import Record
from lessen.report.mood import judge_mood
from lessen.report.summary import summary
from lessen.report.verdict import judge


def record(figure: str, value: float | None, *, step: int = 0, unit: str = "1", **more: Any) -> Record:
    return Record(
        subject=f"{step} Prune" if step else "teacher", figure=figure, value=value, unit=unit, step=step, **more
    )


def shares(now: float, low: float | None = None, high: float | None = None) -> list[Record]:
    """A network that had 90 % of accuracy, at half its bytes; the ends are those of the paired change."""
    rows = [record("bytes", 1000.0, unit="B"), record("bytes", 500.0, step=1, unit="B")]
    rows += [record("accuracy", 90.0, unit="%"), record("accuracy", now, step=1, unit="%")]
    if low is not None:
        rows.append(record("accuracy_change", now - 90, low=low, high=high, step=1, unit="points"))
    return rows


def errors(was: float, now: float, figure: str = "mean_squared_error", **detail: Any) -> list[Record]:
    sizes = [record("bytes", 1000.0, unit="B"), record("bytes", 500.0, step=1, unit="B")]
    return [*sizes, record(figure, was, detail=detail), record(figure, now, step=1, detail=detail)]


def target(name: str, value: float) -> Record:
    return record(f"target_{name}", value, detail={"asked": 1.0, "found": 2.0, "unit": "points"})


def file(passed: bool) -> Record:
    return record("verified", float(passed), step=1, file="model.onnx")


CASES: dict[str, tuple[list[Record], str, str]] = {
    "ruined": (shares(41.6, -51.0, -45.0), "bad", "Do not use this: 48.40 points of accuracy were lost."),
    "ruined without an interval": (shares(41.6), "bad", "Do not use this: 48.40 points"),
    "an error that is thirty times as large": (errors(0.0211, 0.619), "bad", "mean squared error is 2834 % worse"),
    "an error of another name": (errors(1.0, 3.0, "pinball", higher_is_better=False), "careful", "no quality"),
    "the task's own error": (
        errors(1.0, 3.0, "pinball", higher_is_better=False, headline=True), "bad", "the pinball is 200 % worse"
    ),
    "the task's own score": (
        errors(1.0, 3.0, "profit", higher_is_better=True, headline=True), "good", "Good: the profit is no worse."
    ),
    "a target of quality": ([*shares(88.0, -3.0, -1.0), target("accuracy_drop", 0.0)], "bad", "a target was missed"),
    "a target of speed": ([*shares(90.0, -0.1, 0.1), target("speedup", 0.0)], "careful", "a target was missed"),
    "a target that is met": ([*shares(90.0, -0.1, 0.1), target("speedup", 1.0)], "good", "Good"),
    "no file": ([*shares(90.0, -0.1, 0.1), file(False)], "bad", "no file passed verification"),
    "a file": ([*shares(90.0, -0.1, 0.1), file(True)], "good", "Good"),
    "more than chance": (shares(88.0, -3.0, -1.0), "careful", "2.00 points of accuracy were lost, more than chance"),
    "too few examples": (shares(88.0, -9.0, 5.0), "careful", "up to 9.0 points of accuracy may be lost"),
    "within chance": (shares(89.8, -0.6, 0.2), "good", "Good: no loss of accuracy beyond chance."),
    "better": (shares(93.0, 2.0, 4.0), "good", "Good: no loss of accuracy beyond chance."),
    "without quality": (shares(90.0)[:2], "careful", "Careful: no quality was measured"),
    "close to the teacher": (
        [*shares(90.0)[:2], record("agreement", 97.0, step=1, unit="%")], "careful", "only closeness"
    ),
    "far from the teacher": (
        [*shares(90.0)[:2], record("agreement", 40.0, step=1, unit="%")], "bad", "gives other answers"
    ),
    "nothing": ([], "open", "nothing to judge"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_to_think_of_it(case: str) -> None:
    rows, kind, words = CASES[case]
    # A file that is shipped has the figures of its network.
    if case == "a file":
        rows = [*rows, *(record(r.figure, r.value, step=1, unit=r.unit, low=r.low, high=r.high, file="model.onnx")
                         for r in rows if r.step == 1 and r.file is None)]  # fmt: skip
    mood = judge_mood(judge(rows), rows)
    assert (mood.kind, words in mood.words) == (kind, True), mood
    if kind == "bad":
        assert mood.words.startswith("Do not use this")
        assert mood.words in summary(rows, width=200)
