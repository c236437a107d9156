"""Time several things against each other, so that a slow moment of the machine hits them all alike.

Each round calls everything in turn, in an order shuffled again: once untimed, so that the caches hold what a caller who
runs nothing else would find there, then timed. Calls shorter than a few milliseconds are timed several in a row, as
many as fill that time: the call after the clocks and counters of the system have been read is slower, by some
hundredths of a millisecond, and calls of every length must pay the same share of it.

What is compared are the ratios *within* a round: a change of frequency or a busy neighbour moves both sides, and the
ratio hardly. Timing one after the other instead measures the hour of the day.

A call that had to wait for a core does not count, and is made up for by another round. Where too few calls are left, or
the machine was busy all the time, there are no figures but the reason (`lessen.measure.disturbance`).

Shapes: R rounds.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from lessen.core.errors import SettingError
from lessen.core.seeds import derive
from lessen.measure.disturbance import (
    CROWDED,
    Conditions,
    Counters,
    Meter,
    Reading,
    SystemMeter,
    crowd,
    interrupted,
    stolen,
    waits,
    why_busy,
)
from lessen.measure.timings import FEWEST_ROUNDS, Timings

ATTEMPTS = 2
"""How often a timing is tried while the machine is busy."""

REST = 0.5
"""Seconds between two attempts."""

AGAIN = 2
"""How many times the rounds asked for may be run, to make up for calls that were interrupted."""

BLOCK = 5.0
"""Milliseconds that a timed block of calls lasts at least, unless it holds `MOST` calls."""

MOST = 1000
"""The most calls in a block."""

COARSE = 0.01
"""Steps of the CPU clock, as a share of a call's time, above which it says nothing about the call."""


def interleave(
    runs: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 30,
    warm_up: int = 2,
    seed: int = 0,
    insist: bool = False,
    block: float = BLOCK,
    meter: Meter | None = None,
) -> Timings:
    """Time each callable once a round, in shuffled order, until each has `rounds` times that were not interrupted.

    Pin the threads before (`pinned_threads` for PyTorch; other runtimes by their own session options), and let a
    callable that works on an accelerator wait for it before it returns.

    The effort is bounded: at most twice the rounds asked for, and on a busy machine a second attempt half a second
    later. If that one is disturbed as well, the result has no figures and `busy` says why.

    Args:
        runs: What to call, by name.
        rounds: How many times each is timed; at least 6.
        warm_up: How many untimed rounds come first; at least 1, which tells how long a call takes.
        seed: Of the order within the rounds.
        insist: Whether all rounds are run where a few have shown that the machine is busy; for their CPU times.
        block: Milliseconds that are timed at least: of a shorter call, several in a row. 0 times each call alone.
        meter: What tells the time and what the system did; None for the system's own counters.

    Raises:
        SettingError: nothing to time, or too few rounds for an interval.
    """
    if not runs:
        raise SettingError("There are no callables to time; give at least one.")
    if rounds < FEWEST_ROUNDS or warm_up < 1 or block < 0:
        raise SettingError(
            f"Got rounds={rounds}, warm_up={warm_up} and block={block}; expected at least {FEWEST_ROUNDS} rounds "
            "(fewer give no 95 % interval), at least 1 round to warm up, and no negative block."
        )
    order = np.random.default_rng(derive(seed, "interleave"))
    meter = meter or SystemMeter()
    try:
        with no_collection():
            lengths = dict.fromkeys(runs, math.inf)
            for _ in range(warm_up):
                for place in order.permutation(len(runs)):
                    name = list(runs)[place]
                    begin = meter.before().wall
                    runs[name]()
                    lengths[name] = min(lengths[name], (meter.after().wall - begin) / 1e6)
            blocks = {name: _block(block, length) for name, length in lengths.items()}
            for attempt in range(ATTEMPTS):
                if attempt:
                    meter.rest(REST)
                last = attempt == ATTEMPTS - 1
                least = rounds if insist and last else FEWEST_ROUNDS
                timings = _attempt(runs, blocks, rounds, order, meter, least=least)
                if timings.busy is None:
                    break
    finally:
        meter.close()
    return timings


def _block(wanted: float, length: float) -> int:
    """How many calls of this length fill the time that is wanted, both in ms."""
    return MOST if length <= wanted / MOST else max(1, math.ceil(wanted / length))


def _attempt(
    runs: Mapping[str, Callable[[], object]],
    blocks: Mapping[str, int],
    rounds: int,
    order: np.random.Generator,
    meter: Meter,
    *,
    least: int,
) -> Timings:
    """Rounds until each has enough blocks of calls that count; only `least` where it is hopeless."""
    names = list(runs)
    readings: dict[str, list[tuple[Reading, Reading, Reading]]] = {name: [] for name in names}
    enough = dict.fromkeys(names, 0)
    crowds: list[float] = []
    meter.start()
    first = meter.counters()
    for count in range(AGAIN * rounds):
        for place in order.permutation(len(names)):
            name, run = names[place], runs[names[place]]
            wanted = meter.others()
            if wanted is not None:
                crowds.append(wanted)
            before = meter.before()
            run()
            begin = meter.before()
            for _ in range(blocks[name]):
                run()
            taken = before, begin, meter.after()
            readings[name].append(taken)
            enough[name] += not interrupted(*taken)
        if count + 1 >= least and (crowd(crowds, first, first) or 0.0) > 2 * CROWDED:
            break
        if min(enough.values()) >= rounds:
            break
    return _settled(readings, blocks, crowds, first, meter.counters())


def _settled(
    readings: Mapping[str, list[tuple[Reading, Reading, Reading]]],
    blocks: Mapping[str, int],
    crowds: list[float],
    first: Counters,
    last: Counters,
) -> Timings:
    """The times, which of them count, and under which conditions they were taken."""
    wall = {name: np.array([end.wall - begin.wall for _, begin, end in calls]) for name, calls in readings.items()}
    used = {name: np.array([end.cpu - begin.cpu for _, begin, end in calls]) for name, calls in readings.items()}
    clean = {name: np.array([not interrupted(*each) for each in calls]) for name, calls in readings.items()}
    every = [each for calls in readings.values() for each in calls]
    spent, worked = (
        sum(float(times.sum()) for times in wall.values()),
        sum(float(times.sum()) for times in used.values()),
    )
    waited = [wait for _, begin, end in every for wait in waits(begin, end)]
    counted = first.switches is not None and last.switches is not None
    conditions = Conditions(
        rounds=len(next(iter(wall.values()))),
        calls=len(every),
        discarded=sum(int((~each).sum()) for each in clean.values()),
        worst=max(float((~each).mean()) for each in clean.values()),
        switches=last.switches - first.switches if counted else None,  # type: ignore[operator]
        waited=sum(waited) / spent if waited and spent else None,
        others=crowd(crowds, first, last),
        stolen=stolen(first, last),
        load=psutil.getloadavg()[0],
        wall_to_cpu=spent / worked if worked else None,
    )
    conditions = replace(conditions, busy=why_busy(conditions))
    if conditions.busy is None and conditions.worst > 0.5:  # only its own threads were in each other's way
        clean, conditions = {}, replace(conditions, discarded=0)
    return Timings(
        {name: times / 1e6 / blocks[name] for name, times in wall.items()},
        clean,
        {name: times / 1e6 / blocks[name] for name, times in used.items() if not _coarse(times, wall[name])},
        conditions,
    )


def _coarse(used: NDArray[np.int64], wall: NDArray[np.int64]) -> bool:
    """Whether the CPU clock moved in steps too large for these calls, as it does under a limit on CPU time.

    Every difference of such a clock is a multiple of its step; those of a fine clock have no divisor in common.
    """
    if (used <= 0).any():
        return True
    return math.gcd(*used.tolist()) > COARSE * float(np.median(wall))


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
