"""Times of several things from one interleaved run: medians, ratios, and how far they can be believed.

Shapes: R rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lessen.core.errors import BusyError, SettingError, did_you_mean
from lessen.core.estimate import Estimate
from lessen.functional.intervals import median_with_interval
from lessen.measure.disturbance import Conditions

FEWEST_ROUNDS = 6
"""With fewer, no interval of a median reaches 95 %."""

FASTEST = 5
"""Percentile of the times that `fastest_twentieth` returns: neighbours on the machine only ever add time."""

LOADED_TIME = 0.05
LOADED_RATIO = 0.03
"""What a median time, and a ratio of two, move by when the same files are loaded again, as shares: where their memory
lies differs, and no number of rounds in one process can see it. Intervals hold it (`benchmarks/timing`)."""


@dataclass(frozen=True)
class Timings:
    """What `interleave` saw.

    Args:
        milliseconds: For each name, wall time of each round, shape (R,), float64; entry r of all names is one round.
        clean: For each name, which of them count, shape (R,), bool; the others were interrupted. Empty: all.
        cpu: For each name, the CPU time of all threads in ms, shape (R,), float64; empty where it is not known.
        conditions: What happened to the calls, and whether the times can be believed.
    """

    milliseconds: Mapping[str, NDArray[np.float64]]
    clean: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    cpu: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    conditions: Conditions = field(default_factory=Conditions)

    @property
    def busy(self) -> str | None:
        """Why there are no times, as text; None if there are."""
        return self.conditions.busy

    def estimate(self, name: str) -> Estimate:
        """The median time in milliseconds, with its 95 % interval.

        Raises:
            BusyError: the machine was busy.
        """
        taken = self._of(name)
        return _widened(median_with_interval(taken[self._counts(name)]), LOADED_TIME)

    def median(self, name: str) -> float:
        """The median time in milliseconds; errors as of `estimate`."""
        return self.estimate(name).value

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % interval of the median time, in milliseconds; errors as of `estimate`."""
        return _ends(self.estimate(name))

    def ratio(self, reference: str, name: str) -> tuple[float, float, float]:
        """How many times faster `name` is than `reference`: the median of the rounds' ratios, and its 95 % interval.

        Above 1 is faster, below 1 is slower. Returns (median, low, high); errors as of `estimate`.
        """
        quotients = self._of(reference) / self._of(name)
        both = self._counts(reference) & self._counts(name)
        # Where hardly a round is whole, the ratio of two medians has an interval and the median of few ratios has none.
        if both.sum() < FEWEST_ROUNDS:
            return _quotient(self.estimate(reference), self.estimate(name))
        paired = _widened(median_with_interval(quotients[both]), LOADED_RATIO)
        return paired.value, *_ends(paired)

    def fastest_twentieth(self, name: str) -> float:
        """The fifth percentile of the times in milliseconds: whatever else runs on a machine only ever adds time.

        Raises:
            BusyError: the machine was busy.
        """
        return float(np.percentile(self._of(name)[self._counts(name)], FASTEST))

    def cpu_estimate(self, name: str) -> Estimate | None:
        """The median CPU time of all threads in milliseconds, over all calls, also on a busy machine.

        None if the CPU clock moves in steps too large for it. It is no time that anyone waits for: interruptions leave
        cold caches behind, threads that wait for each other count as well.
        """
        self._known(name)
        return median_with_interval(self.cpu[name]) if name in self.cpu else None

    def _of(self, name: str) -> NDArray[np.float64]:
        self._known(name)
        if self.busy is not None:
            raise BusyError(
                f"The machine was busy while {name} was timed: {self.busy}. Its time is not known; measure again when "
                "nothing else runs."
            )
        return self.milliseconds[name]

    def _counts(self, name: str) -> NDArray[np.bool_]:
        return self.clean[name] if name in self.clean else np.ones(len(self.milliseconds[name]), dtype=np.bool_)

    def _known(self, name: str) -> None:
        if name not in self.milliseconds:
            raise SettingError(f"Nothing named {name!r} was timed: {did_you_mean(name, self.milliseconds)}")


def _widened(estimate: Estimate, share: float) -> Estimate:
    """The interval with a second, independent share of the value in it."""
    if estimate.low is None or estimate.high is None:
        return estimate
    value, more = estimate.value, share * estimate.value
    low = value - math.hypot(value - estimate.low, more)
    return Estimate(value, max(low, 0.0), value + math.hypot(estimate.high - value, more))


def _quotient(above: Estimate, below: Estimate) -> tuple[float, float, float]:
    """The ratio of two independent figures, with its interval."""
    value, (low, high), (least, most) = above.value / below.value, _ends(above), _ends(below)
    down = math.hypot((above.value - low) / above.value, (most - below.value) / below.value)
    up = math.hypot((high - above.value) / above.value, (below.value - least) / below.value)
    return value, value / (1 + down), value * (1 + up)


def _ends(estimate: Estimate) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return estimate.value, estimate.value
    return estimate.low, estimate.high
