"""Schedules: a factor that follows the progress of a stage, from 0 at its first step towards 1 at its end.

The weight of an edge and the learning rate of a node use the same ones.
"""

from __future__ import annotations

import math
from typing import Annotated, Protocol, Self, runtime_checkable

from pydantic import Field, model_validator

from lessen.core.ranges import AnyShare
from lessen.core.settings import settings


@runtime_checkable
class Schedule(Protocol):
    """A settings object that gives a factor for a progress in [0, 1]."""

    def at(self, progress: float, /) -> float: ...


@settings
class Constant:
    """The same all the time, after a linear start.

    Args:
        warmup: The share of the stage in which the factor rises from nearly 0 to 1.

    >>> Constant().at(0.3), Constant(warmup=0.5).at(0.25)
    (1.0, 0.5)
    """

    warmup: AnyShare = 0.0

    def at(self, progress: float, /) -> float:
        return _warm(progress, self.warmup)


@settings
class LinearWarmup:
    """A straight line from `start` to 1 during the share `until` of the stage, then 1.

    >>> LinearWarmup(until=0.5).at(0.25), LinearWarmup(until=0.5).at(0.8)
    (0.5, 1.0)
    """

    until: Annotated[float, Field(gt=0, le=1)] = 1.0
    start: float = 0.0

    def at(self, progress: float, /) -> float:
        return self.start + (1 - self.start) * min(1.0, progress / self.until)


@settings
class Cosine:
    """Half a cosine from 1 to `end`, after a linear start (SGDR, arXiv:1608.03983, without restarts).

    Args:
        end: The factor at the end of the stage.
        warmup: The share of the stage in which the factor rises from nearly 0 to 1.

    >>> Cosine().at(0.0), Cosine().at(0.5), Cosine(end=0.1).at(1.0)
    (1.0, 0.5, 0.1)
    """

    end: float = 0.0
    warmup: AnyShare = 0.0

    def at(self, progress: float, /) -> float:
        if progress < self.warmup:
            return _warm(progress, self.warmup)
        along = (progress - self.warmup) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return round(self.end + (1 - self.end) * 0.5 * (1 + math.cos(math.pi * along)), 12)


@settings
class Steps:
    """Multiplied by `factor` at each of the shares `drops` of the stage, after a linear start.

    >>> [Steps(drops=(0.5, 0.75)).at(p) for p in (0.4, 0.5, 0.9)]
    [1.0, 0.1, 0.01]
    """

    drops: tuple[AnyShare, ...] = (0.5, 0.75)
    factor: Annotated[float, Field(ge=0)] = 0.1
    warmup: AnyShare = 0.0

    def at(self, progress: float, /) -> float:
        passed = sum(progress >= drop for drop in self.drops)
        return round(_warm(progress, self.warmup) * self.factor**passed, 12)


@settings
class Window:
    """1 from the share `start` to the share `end` of the stage, and 0 outside: an edge that starts late or ends early.

    >>> [Window(start=0.25).at(p) for p in (0.0, 0.25, 1.0)]
    [0.0, 1.0, 1.0]
    """

    start: AnyShare = 0.0
    end: AnyShare = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start > self.end:
            raise ValueError(f"the window ends at {self.end} before it starts at {self.start}")
        return self

    def at(self, progress: float, /) -> float:
        return 1.0 if self.start <= progress <= self.end else 0.0


def _warm(progress: float, warmup: float) -> float:
    return 1.0 if progress >= warmup else progress / warmup
