"""What the shipped file must reach, and whether it did."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from lessen.core.record import Record
from lessen.core.settings import settings


@settings
class Targets:
    """The budget. What is not named is not asked for. Judged at the end, on the fastest file that passed verification.

    Args:
        accuracy_drop: Points of test accuracy that may be lost against the teacher.
        speedup: How many times faster than the teacher's own fp32 file, timed in one interleaved run.
        milliseconds: Median latency at the first batch size.
        size: Bytes of the file on disk.
    """

    accuracy_drop: NonNegativeFloat | None = None
    speedup: PositiveFloat | None = None
    milliseconds: PositiveFloat | None = None
    size: PositiveInt | None = None

    def judge(self, records: Sequence[Record], file: str | None) -> list[Record]:
        """One record a target: 1 where it is met, 0 where it is not, with what was asked and what was found."""
        rows = []
        for name, asked, found, unit, met in self._found(records, file):
            rows.append(
                Record(
                    subject=file or "no file",
                    figure=f"target_{name}",
                    value=float(met),
                    unit="1",
                    file=file,
                    detail={"asked": asked, "found": found, "unit": unit},
                )
            )
        return rows

    def _found(self, records: Sequence[Record], file: str | None) -> list[tuple[str, float, float | None, str, bool]]:
        def first(figure: str, *, of: str | None, step: int | None = None) -> float | None:
            for record in records:
                if record.figure == figure and record.file == of and (step is None or record.step == step):
                    return record.value
            return None

        rows: list[tuple[str, float, float | None, str, bool]] = []
        if self.accuracy_drop is not None:
            before, after = first("accuracy", of=None, step=0), first("accuracy", of=file)
            drop = None if before is None or after is None else before - after
            rows.append(
                ("accuracy_drop", self.accuracy_drop, drop, "points", drop is not None and drop <= self.accuracy_drop)
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
