"""A figure and its spread."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; an end is None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None
