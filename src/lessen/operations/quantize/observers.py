"""Observers: from the values that passed an edge to the range that its grid covers.

A range that covers the largest value spends its steps on outliers; a narrower one clamps them. How much is gained where
is seen in the histogram of what passed. Weights are observed in the same way: each output channel by its magnitudes.

Entropy: Migacz, 8-bit inference with TensorRT, GTC 2017. Mean magnitude: Esser et al., Learned step size quantization,
ICLR 2020, arXiv:1902.08153, section 2.1.

Shapes: B bins, S spikes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
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
_SAMPLE, _OFTEN = 4096, 0.005
"""Of how many values spikes are looked for among, and the share of them that makes one."""

Floats = NDArray[np.float64]


@dataclass
class Seen:
    """What passed an edge: its ends, values that come again and again, and after a second pass how often each came.

    A value that comes again and again (the zeros behind a ReLU, a constant background, pruned weights) is a spike: the
    grid has one code for all of it. It is counted by itself, at its exact place.

    Args:
        low: The smallest value.
        high: The largest value.
        spikes: The values that come again and again, ascending, shape (S,).
        held: How often each of them came, shape (S,).
        counts: How many of all other values fell into each of BINS equal parts of [low, high], shape (B,).
    """

    low: float = float("inf")
    high: float = float("-inf")
    spikes: Floats = field(default_factory=lambda: np.zeros(0))
    held: Floats | None = None
    counts: Floats | None = None

    def stretch(self, values: Tensor) -> None:
        """First pass: widen the ends."""
        low, high = torch.aminmax(values.detach())
        # NumPy's carry a NaN on; Python's would lose it.
        self.low = float(np.minimum(self.low, float(low)))
        self.high = float(np.maximum(self.high, float(high)))

    def look_for_spikes(self, values: Tensor) -> None:
        """First pass: note the values that hold at least 0.5 % of a sample."""
        flat = values.detach().flatten()
        if len(flat) > _SAMPLE:
            draw = torch.Generator().manual_seed(0)
            flat = flat[torch.randint(len(flat), (_SAMPLE,), generator=draw).to(flat.device)]
        found, times = flat.float().cpu().unique(return_counts=True)
        often = found[times >= max(2.0, _OFTEN * len(flat))]
        self.spikes = np.union1d(self.spikes, often.double().numpy())

    def count(self, values: Tensor) -> None:
        """Second pass: count, with the ends and the spikes known."""
        if self.counts is None or self.held is None:
            self.counts, self.held = np.zeros(BINS), np.zeros(len(self.spikes))
        if not self.high > self.low:
            return
        rest = values.detach().float().flatten()
        if len(self.spikes):
            spikes = torch.from_numpy(self.spikes).to(rest)
            place = torch.searchsorted(spikes, rest).clamp_max_(len(spikes) - 1)
            same = spikes[place] == rest
            self.held += place[same].bincount(minlength=len(spikes)).double().cpu().numpy()
            rest = rest[~same]
        self.counts += torch.histc(rest, BINS, min=self.low, max=self.high).double().cpu().numpy()

    def weighed(self) -> tuple[Floats, Floats]:
        """The middle of each filled bin and every spike, and how often each came, shape (filled + S,) each."""
        if self.counts is None or self.held is None:
            return np.zeros(0), np.zeros(0)
        filled, width = np.flatnonzero(self.counts), (self.high - self.low) / BINS
        middles = self.low + width * (filled + 0.5)
        return np.append(middles, self.spikes), np.append(self.counts[filled], self.held)


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
        values, counts = seen.weighed()
        if not counts.sum():
            return seen.low, seen.high
        width = (seen.high - seen.low) / BINS
        place = np.clip((values - seen.low) / width, 0, BINS - 1).astype(int)
        below = np.cumsum(np.bincount(place, counts, BINS)) / counts.sum()
        outside = (1 - self.percent / 100) / 2
        first = int(np.searchsorted(below, outside))
        last = int(np.searchsorted(below, 1 - outside))
        return seen.low + first * width, min(seen.low + (last + 1) * width, seen.high)


@settings
class SquaredError:
    """The range whose grid has the smallest squared error over the values, among a lattice of narrower ranges."""

    needs_counts: ClassVar[bool] = True

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps."""
        values, counts = seen.weighed()
        if not counts.sum():
            return seen.low, seen.high
        best = (float("inf"), seen.low, seen.high)
        for low, high in candidates(seen.low, seen.high):
            error = squared_error(values, counts, low, high, levels=levels)
            best = min(best, (error, low, high))
        return best[1], best[2]


@settings
class Entropy:
    """The range that loses the least information: smallest divergence from the values to what a grid tells of them.

    Both ends come towards zero together, in 256 steps, as long as the squared error is no larger than that of the whole
    range: divergence does not see how far a value is moved, and few values far out may matter most. Values outside
    count as the outermost bin inside. It wants many values: for the few weights of a channel `SquaredError` is better.
    A value that comes again and again has a code of its own and loses nothing, unless it is clamped.
    """

    needs_counts: ClassVar[bool] = True

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps."""
        if seen.counts is None or seen.held is None or not (seen.counts.sum() + seen.held.sum()):
            return seen.low, seen.high
        counts = seen.counts.reshape(_ENTROPY_BINS, -1).sum(1)
        width, largest = (seen.high - seen.low) / _ENTROPY_BINS, max(abs(seen.low), abs(seen.high))
        middles: Floats = seen.low + width * (np.arange(_ENTROPY_BINS, dtype=np.float64) + 0.5)
        best = (float("inf"), seen.low, seen.high)
        most = squared_error(middles, counts, seen.low, seen.high, levels=levels)
        for part in range(_ENTROPY_RANGES, 0, -1):
            threshold = largest * part / _ENTROPY_RANGES
            first = max(0, round((-threshold - seen.low) / width))
            last = min(_ENTROPY_BINS, round((threshold - seen.low) / width))
            if last - first <= levels:
                break
            low, high = seen.low + first * width, seen.low + last * width
            if squared_error(middles, counts, low, high, levels=levels) > most:
                continue
            lost = lost_information(
                counts[first:last],
                codes(middles[first:last], low, high, levels=levels),
                below=float(counts[:first].sum() + seen.held[seen.spikes < low - width / 2].sum()),
                above=float(counts[last:].sum() + seen.held[seen.spikes > high + width / 2].sum()),
            )
            if lost < best[0]:  # of equal ones the widest
                best = (lost, low, high)
        return best[1], best[2]


@settings
class MeanMagnitude:
    """A step of 2 mean(abs(x)) / sqrt(largest code): where the training of a learned step starts.

    The range is never wider than what was seen, nor narrower than that of `SquaredError`. With 2 and 3 bits it is the
    paper's; with 8 bits the formula leaves most codes unused or, where there are many zeros, cuts off for nothing.
    """

    needs_counts: ClassVar[bool] = True

    def range_of(self, seen: Seen, *, levels: int) -> tuple[float, float]:
        """The range to cover with `levels` steps; as much of it lies below zero as of the range seen."""
        values, counts = seen.weighed()
        if not counts.sum():
            return seen.low, seen.high
        below = round(levels * max(-seen.low, 0.0) / (max(seen.high, 0.0) - min(seen.low, 0.0)))
        mean = float((counts * np.abs(values)).sum() / counts.sum())
        step = 2 * mean / max(levels - below, 1) ** 0.5
        low, high = SquaredError().range_of(seen, levels=levels)
        ends = ((low, high), (seen.low, seen.high))
        least, most = (max(max(b, 0.0) / max(levels - below, 1), max(-a, 0.0) / max(below, 1)) for a, b in ends)
        step = min(max(step, least), most)
        return -below * step, (levels - below) * step


Observer = MinMax | Percentile | SquaredError | Entropy | MeanMagnitude


def lost_information(counts: Floats, code: Floats, *, below: float, above: float) -> float:
    """Kullback-Leibler divergence, in nat, from the bins of a range to what their codes tell of them.

    A code tells how many values it represents, not in which of its bins they were: they count as even over those of its
    bins in which there were any. Spikes inside are no part of it: their code tells all of them.

    Args:
        counts: How many values each bin of the range holds, shape (B,).
        code: The code of each bin, shape (B,).
        below: How many values lie below the range; they count as its first bin.
        above: How many lie above it; they count as its last.
    """
    told = counts.copy()
    told[0] += below
    told[-1] += above
    if not told.sum():
        return 0.0
    filled = told > 0
    _, group = np.unique(code, return_inverse=True)
    sums, members = np.bincount(group, counts), np.bincount(group, filled)
    even = np.divide(sums, members, out=np.zeros_like(sums), where=members > 0)[group][filled]
    p, q = told[filled] / told.sum(), np.maximum(even / max(counts.sum(), _RARE), _RARE)
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
    return float((counts * (values - (codes(values, low, high, levels=levels) - zero) * scale) ** 2).sum())


def codes(values: Floats, low: float, high: float, *, levels: int) -> Floats:
    """The code of each value on the grid of `levels` steps over [low, high], in the shape of `values`."""
    scale, zero = grid(low, high, levels=levels)
    found: Floats = np.clip(np.rint(values / scale) + zero, 0, levels)
    return found


def grid(low: float, high: float, *, levels: int) -> tuple[float, int]:
    """The step and the code of zero of a grid of `levels` steps that covers [low, high] and zero, zero exactly.

    The step is a float32 number. If the range starts at zero, the largest code does not represent more than `high`: a
    runtime may then leave out a clip that comes before.

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
