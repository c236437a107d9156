"""The figure of quality that networks are judged by, whichever the task has; known from the records alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lessen.core.record import Record
from lessen.report.entries import Entry

WORDS = {
    "accuracy": "accuracy",
    "mean_squared_error": "mean squared error",
    "calibration_error": "calibration error",
    "nll": "negative log-likelihood",
    "rmse": "root mean squared error",
    "mae": "mean absolute error",
    "r2": "share of variance explained (R²)",
    "mean_iou": "mean IoU",
    "iou": "IoU",
    "f1": "F1",
    "f1_micro": "F1 over all labels",
    "agreement": "agreement with the teacher",
    "kl_to_teacher": "divergence from the teacher",
    "cosine_to_teacher": "cosine to the teacher's outputs",
    "error_to_teacher": "squared error to the teacher, of its variance",
}
"""What figures are called on the page, where their name does not say it."""

CLOSENESS = ("agreement", "cosine_to_teacher")
"""What shows quality where no label does, best first."""


def word(figure: str) -> str:
    """What a figure is called on the page."""
    name, _, of = figure.partition("/")
    return WORDS.get(name, name.replace("_", " ")) + (f" of {of}" if of else "")


def headline(found: Iterable[Entry]) -> str | None:
    """The name of the figure that networks are judged by, or None if no quality was measured."""
    entries = list(found)
    for entry in entries:
        for name, records in entry.figures.items():
            if records[0].detail.get("headline"):
                return name
    for name in ("accuracy", "mean_squared_error", *CLOSENESS):
        if any(entry.get(name) is not None for entry in entries):
            return name
    return None


_ERRORS = {"mean_squared_error", "nll", "calibration_error", "kl_to_teacher", "error_to_teacher", "rmse", "mae"}
"""Figures that are better if they are smaller, in records that do not say it."""


def higher_is_better(record: Record) -> bool:
    """The direction of a figure of quality, or of its change."""
    return bool(record.detail.get("higher_is_better", record.figure.removesuffix("_change") not in _ERRORS))


def of_task(found: Sequence[Entry]) -> list[str]:
    """The names of all figures of quality, the headline first, in the order in which they were measured."""
    names: dict[str, None] = {}
    first = headline(found)
    if first is not None:
        names[first] = None
    for entry in found:
        for name, records in entry.figures.items():
            known = name in WORDS or "higher_is_better" in records[0].detail
            if known and not name.endswith("_change"):
                names[name] = None
    return list(names)


def quality_change(after: Entry, teacher: Entry | None) -> Record | None:
    """How the headline figure changed: the paired record if there is one, else the difference without an interval."""
    name = headline([entry for entry in (teacher, after) if entry is not None])
    if name is None:
        return None
    if (paired := after.get(f"{name}_change")) is not None:
        return paired
    now, was = after.get(name), None if teacher is None else teacher.get(name)
    if now is None or was is None or now.value is None or was.value is None:
        return None
    return Record(
        subject=after.name,
        figure=f"{name}_change",
        value=now.value - was.value,
        unit="points" if now.unit == "%" or name == "accuracy" else now.unit,
        detail={"higher_is_better": higher_is_better(now)},
    )
