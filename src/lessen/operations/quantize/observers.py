"""Observers: from the values that passed an edge to the range that its grid covers.

A range that covers the largest value spends its steps on outliers; a narrower one clamps them. How much is gained where
is seen in the histogram of what passed. Weights are observed in the same way: each output channel by its magnitudes.

Entropy: Migacz, 8-bit inference with TensorRT, GTC 2017. Mean magnitude: Esser et al., Learned step size quantization,
ICLR 2020, arXiv:1902.08153, section 2.1.

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
_ENTROPY_BINS = 2048
_ENTROPY_RANGES = 256
_RARE = 1e-10

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
        filled = seen.counts > 0
        centres, counts, best = seen.centres()[filled], seen.counts[filled], (float("inf"), seen.low, seen.high)
        for low, high in candidates(seen.low, seen.high):
            error = squared_error(centres, counts, low, high, levels=levels)
            best = min(best, (error, low, high))
        return best[1], best[2]


@settings
class Entropy:
    """The range that loses the least information: smallest divergence from the values to what a grid tells of them.

    Both ends come towards zero together, in 256 steps; values outside count as the outermost bin inside. It wants many
    values: for the few weights of a channel `SquaredError` is better.
    """

    needs_counts: ClassVar[bool] = True

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps."""
        if seen.counts is None or not seen.counts.sum():
            return seen.low, seen.high
        counts = seen.counts.reshape(_ENTROPY_BINS, -1).sum(1)
        width, largest = (seen.high - seen.low) / _ENTROPY_BINS, max(abs(seen.low), abs(seen.high))
        best = (float("inf"), 0, _ENTROPY_BINS)
        for part in range(_ENTROPY_RANGES, 0, -1):
            threshold = largest * part / _ENTROPY_RANGES
            first = max(0, round((-threshold - seen.low) / width))
            last = min(_ENTROPY_BINS, round((threshold - seen.low) / width))
            if last - first <= levels:
                break
            best = min(best, (lost_information(counts, first, last, levels=levels), first, last))
        return seen.low + best[1] * width, seen.low + best[2] * width


@settings
class MeanMagnitude:
    """A step of 2 mean(abs(x)) / sqrt(largest code): where the training of a learned step starts."""

    needs_counts: ClassVar[bool] = True

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps; as much of it lies below zero as of the range seen."""
        if seen.counts is None or not seen.counts.sum():
            return seen.low, seen.high
        below = round(levels * max(-seen.low, 0.0) / (max(seen.high, 0.0) - min(seen.low, 0.0)))
        mean = float((seen.counts * np.abs(seen.centres())).sum() / seen.counts.sum())
        step = 2 * mean / max(levels - below, 1) ** 0.5
        return -below * step, (levels - below) * step


Observer = MinMax | Percentile | SquaredError | Entropy | MeanMagnitude


def lost_information(counts: Floats, first: int, last: int, *, levels: int) -> float:
    """Kullback-Leibler divergence, in nat, from the bins [first, last) to `levels` + 1 groups of equal width of them.

    Args:
        counts: How often each bin came, shape (B,); what lies outside [first, last) counts as the outermost bin inside.
        first: The first bin of the range.
        last: The bin behind it.
        levels: The largest code.
    """
    inside = counts[first:last]
    told = inside.copy()
    told[0] += counts[:first].sum()
    told[-1] += counts[last:].sum()
    filled = told > 0
    group = np.arange(len(inside)) * (levels + 1) // len(inside)
    sums = np.bincount(group, inside, levels + 1)
    members = np.bincount(group, filled, levels + 1)
    spread = np.divide(sums, members, out=np.zeros_like(sums), where=members > 0)[group][filled]
    p, q = told[filled] / told.sum(), np.maximum(spread / max(inside.sum(), _RARE), _RARE)
    return float((p * np.log(p / q)).sum())


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
