"""Records and logs as pandas data frames: one line a record, or one line a row of the log, all values plain."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from lessen.core.errors import SettingError, did_you_mean, need
from lessen.core.record import Record
from lessen.report.run import read_run

_KINDS = ("records", "log")


def frame(run: Any, what: str | None = None) -> Any:
    """The records or the log of a run as a pandas DataFrame.

    Args:
        run: The folder of a run, or anything with a `frame` of its own: what `compress`, `resume`, `sweep`, `compare`
            and `engine.run` return.
        what: "records": one line a measurement, with `settings.batch` and the like as columns. "log": one line a
            training step or look at the validation split, with columns as `loss.student` and
            `figures.student.accuracy`. None: records where there are some, else the log.

    Raises:
        MissingExtraError: pandas is not installed.
        RunError: there is no such folder, it is not a run, or a file in it is damaged.
        SettingError: `what` is neither of the two.
    """
    if what not in {None, *_KINDS}:
        raise SettingError(f"what is {what!r}, but 'records' or 'log' was expected: {did_you_mean(str(what), _KINDS)}")
    if hasattr(run, "frame"):
        folder = getattr(run, "run", None) or getattr(run, "folder", None)
        if what is None or folder is None:
            return run.frame()
        run = folder
    found = read_run(Path(run))
    if what == "records" or (what is None and found.records):
        return records_frame(found.records)
    return log_frame(found.log)


def records_frame(records: Iterable[Record]) -> Any:
    """One line a record.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    lines = []
    for record in records:
        told = {
            name: getattr(record, name)
            for name in ("step", "subject", "file", "figure", "value", "unit", "low", "high")
        }
        lines.append({**told, **dict(_flat(record.settings, "settings")), "at": record.at})
    return need("pandas", "frames").DataFrame(lines)


def log_frame(rows: Iterable[Mapping[str, Any]]) -> Any:
    """One line a row of a log.

    Raises:
        MissingExtraError: pandas is not installed.
    """
    return need("pandas", "frames").DataFrame([dict(_flat(row, "")) for row in rows])


def _flat(value: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        here = f"{path}.{name}" if path else name
        if isinstance(item, Mapping):
            yield from _flat(item, here)
        else:
            yield here, ", ".join(map(str, item)) if isinstance(item, list | tuple) else item
