"""Observers: from the values that passed an edge to the range that its grid covers.

A range that covers the largest value spends its steps on outliers; a narrower one clamps them. How much is gained where
is seen in the histogram of what passed.

Shapes: B bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
import torch
from annotated_types import Gt, Le
from numpy.typing import NDArray
from torch import Tensor

from lessen.core.settings import settings

BINS = 4096
_STEPS = 32

Floats = NDArray[np.float64]


@dataclass
class Seen:
    """What passed an edge: its ends, and after a second pass how often each value came.

    Args:
        low: The smallest value.
        high: The largest value.
        counts: How many values fell into each of BINS equal parts of [low, high], shape (B,).
    """

    low: float = float("inf")
    high: float = float("-inf")
    counts: Floats | None = None

    def stretch(self, values: Tensor) -> None:
        """First pass: widen the ends."""
        low, high = torch.aminmax(values.detach())
        # NumPy's carry a NaN on; Python's would lose it.
        self.low = float(np.minimum(self.low, float(low)))
        self.high = float(np.maximum(self.high, float(high)))

    def count(self, values: Tensor) -> None:
        """Second pass: count, with the ends known."""
        if self.counts is None:
            self.counts = np.zeros(BINS)
        if self.high > self.low:
            found = torch.histc(values.detach().float(), BINS, min=self.low, max=self.high)
            self.counts += found.double().cpu().numpy()

    def centres(self) -> Floats:
        """The middle of each bin, shape (B,)."""
        width = (self.high - self.low) / BINS
        middles: Floats = self.low + width * (np.arange(BINS, dtype=np.float64) + 0.5)
        return middles


@settings
class MinMax:
    """From the smallest value seen to the largest: nothing is clamped."""

    needs_counts: ClassVar[bool] = False

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps."""
        return seen.low, seen.high


@settings
class Percentile:
    """The middle `percent` of the values; half of the rest is clamped at each end.

    Args:
        percent: How much to keep. An end at which values pile up (the zeros of a ReLU) stays where it is.
    """

    needs_counts: ClassVar[bool] = True
    percent: Annotated[float, Gt(50), Le(100)] = 99.99

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps."""
        if seen.counts is None or not seen.counts.sum():
            return seen.low, seen.high
        below = np.cumsum(seen.counts) / seen.counts.sum()
        outside = (1 - self.percent / 100) / 2
        width = (seen.high - seen.low) / BINS
        first = int(np.searchsorted(below, outside))
        last = int(np.searchsorted(below, 1 - outside))
        return seen.low + first * width, min(seen.low + (last + 1) * width, seen.high)


@settings
class SquaredError:
    """The range whose grid has the smallest squared error over the values, among a lattice of narrower ranges."""

    needs_counts: ClassVar[bool] = True

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps."""
        if seen.counts is None or not seen.counts.sum():
            return seen.low, seen.high
        centres, best = seen.centres(), (float("inf"), seen.low, seen.high)
        for low, high in candidates(seen.low, seen.high):
            error = squared_error(centres, seen.counts, low, high, levels=levels)
            best = min(best, (error, low, high))
        return best[1], best[2]


def candidates(low: float, high: float) -> list[tuple[float, float]]:
    """Ranges from the whole down to a 32nd of each end; an end on the far side of zero does not move."""
    parts = [part / _STEPS for part in range(_STEPS, 0, -1)]
    lows = [part * low for part in parts] if low < 0 else [min(low, 0.0)]
    highs = [part * high for part in parts] if high > 0 else [max(high, 0.0)]
    return [(one, other) for one in lows for other in highs]


def squared_error(values: Floats, counts: Floats, low: float, high: float, *, levels: int) -> float:
    """Sum of count * (value - value on the grid)^2 for the grid of `levels` steps over [low, high]."""
    scale, zero = grid(low, high, levels=levels)
    code = np.clip(np.rint(values / scale) + zero, 0, levels)
    return float((counts * (values - (code - zero) * scale) ** 2).sum())


def grid(low: float, high: float, *, levels: int) -> tuple[float, int]:
    """The step and the code of zero of a grid of `levels` steps that covers [low, high] and zero, zero exactly.

    The step is a float32 number. Where the range starts at zero the largest code does not stand for more than `high`:
    a runtime may then leave out a clip that comes before.

    >>> grid(0.0, 6.0, levels=255)[1], grid(-1.0, 1.0, levels=254)
    (0, (0.007874015718698502, 127))
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / levels)
    if not scale > np.finfo(np.float32).tiny:
        return 1.0, 0
    zero = int(np.clip(np.rint(-low / scale), 0, levels))
    while low == 0 and scale * np.float32(levels) > np.float32(high):  # one or two times: it is off by rounding alone
        scale = np.nextafter(scale, np.float32(0))
    return float(scale), zero
