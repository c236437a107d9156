"""What the shipped file must reach, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from lessen.core.errors import SettingError
from lessen.core.record import Record
from lessen.core.settings import settings
from lessen.core.task import Task


@settings
class Targets:
    """The budget. What is not named is not asked for. Judged at the end, on the file that is recommended.

    A target in time is not judged from the times of a busy machine.

    Args:
        accuracy_drop: Points of test accuracy that may be lost against the teacher; for tasks with an accuracy.
        quality_drop: How much of the task's first metric may be lost against the teacher, on the test split: points of
            a share in percent, percent of the teacher's value of any other figure.
        speedup: How many times faster than the teacher's own fp32 file, timed in one interleaved run.
        milliseconds: Median latency at the first batch size.
        size: Bytes of the file on disk.
    """

    accuracy_drop: NonNegativeFloat | None = None
    quality_drop: NonNegativeFloat | None = None
    speedup: PositiveFloat | None = None
    milliseconds: PositiveFloat | None = None
    size: PositiveInt | None = None

    def check(self, task: Task, *, labels: bool) -> None:
        """Whether the data can judge what is asked.

        Args:
            task: The task.
            labels: Whether the data has labels.

        Raises:
            SettingError: it cannot; the text names the target and the task.
        """
        names = [metric.name for metric in task.metrics] if labels else []
        if self.accuracy_drop is not None and "accuracy" not in names:
            known = f"has the figures {', '.join(names)}" if names else "has no labels to judge by"
            raise SettingError(
                f"Targets: accuracy_drop cannot be judged, because the task is {task.name} and {known}. Use "
                "quality_drop, or leave it out."
            )
        if self.quality_drop is not None and not names and task.metrics:
            raise SettingError("Targets: quality_drop cannot be judged, because the data has no labels.")

    def judge(self, records: Sequence[Record], file: str | None) -> list[Record]:
        """One record a target: 1 where it is met, 0 where it is not, None where the machine was too busy to tell.

        `detail` holds what was asked, what was found, and why it was not judged.
        """
        rows = []
        for name, asked, found, unit, met in self._found(records, file):
            busy = self._busy(records, file, name) if found is None else None
            told = {"asked": asked, "found": found, "unit": unit}
            rows.append(
                Record(
                    subject=file or "no file",
                    figure=f"target_{name}",
                    value=None if busy is not None else float(met),
                    unit="1",
                    file=file,
                    detail=told if busy is None else {**told, "reason": busy},
                )
            )
        return rows

    def _busy(self, records: Sequence[Record], file: str | None, name: str) -> str | None:
        """Why there is no time to judge by, if the machine was busy."""
        record = _first(records, {"speedup": "speedup", "milliseconds": "latency"}.get(name, ""), of=file)
        return None if record is None else record.detail.get("reason")

    def _found(self, records: Sequence[Record], file: str | None) -> list[tuple[str, float, float | None, str, bool]]:
        def first(figure: str, *, of: str | None, step: int | None = None) -> float | None:
            record = _first(records, figure, of=of, step=step)
            return None if record is None else record.value

        rows: list[tuple[str, float, float | None, str, bool]] = []
        if self.accuracy_drop is not None:
            before, after = first("accuracy", of=None, step=0), first("accuracy", of=file)
            drop = None if before is None or after is None else before - after
            rows.append(
                ("accuracy_drop", self.accuracy_drop, drop, "points", drop is not None and drop <= self.accuracy_drop)
            )
        if self.quality_drop is not None:
            drop = _drop(records, file)
            rows.append(
                ("quality_drop", self.quality_drop, drop, "points or %", drop is not None and drop <= self.quality_drop)
            )
        if self.speedup is not None:
            ratio = first("speedup", of=file)
            rows.append(("speedup", self.speedup, ratio, "1", ratio is not None and ratio >= self.speedup))
        if self.milliseconds is not None:
            time = first("latency", of=file)
            rows.append(("milliseconds", self.milliseconds, time, "ms", time is not None and time <= self.milliseconds))
        if self.size is not None:
            size = first("bytes", of=file)
            rows.append(("size", self.size, size, "B", size is not None and size <= self.size))
        return rows


def _first(records: Sequence[Record], figure: str, *, of: str | None, step: int | None = None) -> Record | None:
    """The first record of a figure of a file, at the first batch size where there are several."""
    for record in records:
        if record.figure == figure and record.file == of and (step is None or record.step == step):
            return record
    return None


def _drop(records: Sequence[Record], file: str | None) -> float | None:
    """How much of the first figure was lost, as of `Metric.loss`; of closeness to the teacher: what is not close."""
    name = next((record.figure for record in records if record.file == file and record.detail.get("headline")), None)
    if name is None:
        return None
    after = _first(records, name, of=file)
    if after is None or after.value is None:
        return None
    if name in {"agreement", "cosine_to_teacher"}:
        return 100 - after.value if after.unit == "%" else 100 * (1 - after.value)
    before = _first(records, name, of=None, step=0)
    if before is None or before.value is None:
        return None
    worse = before.value - after.value
    worse = worse if after.detail.get("higher_is_better", True) else -worse
    return worse if after.unit == "%" else 100 * worse / max(abs(before.value), 1e-12)
