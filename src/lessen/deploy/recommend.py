"""Which file to use: the fastest that passed, and of files that are equally fast the smallest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lessen.core.estimate import Estimate
from lessen.deploy.planned import DeployedFile
from lessen.measure.timings import Timings


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The file to use, and why.

    Args:
        file: The file.
        because: "fastest": none that passed is faster, and none as fast is smaller; "smallest": the machine was busy,
            so nothing is known of their times.
        equally_fast: The names of the others that cannot be told from the fastest by their times.
    """

    file: DeployedFile
    because: Literal["fastest", "smallest"]
    equally_fast: tuple[str, ...] = ()

    def detail(self) -> dict[str, Any]:
        """As data for a record."""
        return {"because": self.because, "equally_fast": list(self.equally_fast)}


def recommend(files: Sequence[DeployedFile], size: int, timed: Mapping[str, Timings]) -> Recommendation | None:
    """The file to use at a batch size; None if none may be used.

    Args:
        files: All files; those that passed and are shipped come into question.
        size: The batch size.
        timed: For each runtime, the run in which its files were timed at this size.
    """
    passed = sorted((file for file in files if file.verified.passed and file.shipped), key=_smaller)
    if not passed:
        return None
    if any(_time(file, size) is None for file in passed):
        return Recommendation(file=passed[0], because="smallest")
    first = min(passed, key=lambda file: _milliseconds(file, size).value)
    level = [file for file in passed if file is first or _level(first, file, size, timed)]
    return Recommendation(
        file=level[0], because="fastest", equally_fast=tuple(file.name for file in level if file is not level[0])
    )


def _level(first: DeployedFile, other: DeployedFile, size: int, timed: Mapping[str, Timings]) -> bool:
    """Whether a file is as fast as the fastest within the interval: paired in one runtime, else by their medians."""
    if first.runtime.name == other.runtime.name:
        _, low, high = timed[first.runtime.name].ratio(first.name, other.name)
        return low <= 1 <= high
    one, two = _milliseconds(first, size), _milliseconds(other, size)
    return abs(one.value - two.value) <= math.hypot(_half(one), _half(two))


def _half(estimate: Estimate) -> float:
    if estimate.low is None or estimate.high is None:
        return 0.0
    return max(estimate.high - estimate.value, estimate.value - estimate.low)


def _smaller(file: DeployedFile) -> tuple[int, str]:
    return file.bytes, file.name


def _time(file: DeployedFile, size: int) -> Estimate | None:
    return file.speed[size].latency if size in file.speed else None


def _milliseconds(file: DeployedFile, size: int) -> Estimate:
    taken = _time(file, size)
    assert taken is not None  # `recommend` has looked
    return taken
