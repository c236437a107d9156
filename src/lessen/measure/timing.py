"""Time several things against each other, so that a slow moment of the machine hits them all alike.

Each round calls everything once, in an order shuffled anew. What is compared are the ratios *within* a round: a
frequency change or a busy neighbour moves both sides, and the ratio hardly. Timing one after the other instead
measures the hour of the day.

Shapes: R rounds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lessen.core.errors import SettingError, did_you_mean
from lessen.core.seeds import derive
from lessen.measure.intervals import Estimate, median_with_interval

FEWEST_ROUNDS = 6
"""With fewer, no interval of a median reaches 95 %."""


@dataclass(frozen=True)
class Timings:
    """What `interleave` saw.

    Args:
        milliseconds: For each name, the time of each round, shape (R,), float64; entry r of all names is one round.
    """

    milliseconds: Mapping[str, NDArray[np.float64]]

    def estimate(self, name: str) -> Estimate:
        """The median time in milliseconds, with its 95 % interval."""
        return median_with_interval(self._of(name))

    def median(self, name: str) -> float:
        """The median time in milliseconds."""
        return self.estimate(name).value

    def interval(self, name: str) -> tuple[float, float]:
        """The 95 % interval of the median time, in milliseconds."""
        return _ends(self.estimate(name))

    def ratio(self, reference: str, name: str) -> tuple[float, float, float]:
        """How many times faster `name` is than `reference`: the median of the rounds' ratios, and its 95 % interval.

        Above 1 is faster, below 1 is slower. Returns (median, low, high).
        """
        paired = median_with_interval(self._of(reference) / self._of(name))
        return paired.value, *_ends(paired)

    def _of(self, name: str) -> NDArray[np.float64]:
        if name not in self.milliseconds:
            raise SettingError(f"Nothing named {name!r} was timed: {did_you_mean(name, self.milliseconds)}")
        return self.milliseconds[name]


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warm_up: int = 3,
    seed: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Timings:
    """Time each callable once a round, in shuffled order, and keep every time.

    Pin the threads before (`pinned_threads` for PyTorch; other runtimes by their own session options), and let a
    callable that works on an accelerator wait for it before it returns.

    Args:
        runs: What to call, by name.
        rounds: How many times each is timed; at least 6.
        warm_up: How many untimed rounds come first.
        seed: Of the order within the rounds.
        clock: Tells the time, in nanoseconds.

    Raises:
        SettingError: nothing to time, or too few rounds for an interval.
    """
    if not runs:
        raise SettingError("There is nothing to time; give at least one callable.")
    if rounds < FEWEST_ROUNDS or warm_up < 0:
        raise SettingError(
            f"Got rounds={rounds} and warm_up={warm_up}; expected at least {FEWEST_ROUNDS} rounds (fewer give no 95 % "
            "interval) and no negative warm-up."
        )
    names = list(runs)
    order = np.random.default_rng(derive(seed, "interleave"))
    taken = {name: np.empty(rounds) for name in names}
    with no_collection():
        for count in range(-warm_up, rounds):
            for place in order.permutation(len(names)):
                name = names[place]
                begin = clock()
                runs[name]()
                if count >= 0:
                    taken[name][count] = (clock() - begin) / 1e6
    return Timings(taken)


@contextmanager
def pinned_threads(count: int | None) -> Iterator[int]:
    """Give PyTorch's operators `count` threads for a block, and the old number back afterwards.

    None keeps the number as it is. Yields the number in force.

    Raises:
        SettingError: a count below 1.
    """
    if count is not None and count < 1:
        raise SettingError(f"Got {count} threads; expected at least 1.")
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector away: from timed calls, as `timeit` does, and from work that throws nothing away."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _ends(estimate: Estimate) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return estimate.value, estimate.value
    return estimate.low, estimate.high
