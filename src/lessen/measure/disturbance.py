"""Was the machine free during a timing?

A call that is shorter than a slice of the scheduler is never interrupted, a longer one nearly always is. On a busy
machine the ratio of the two can then be wrong by a factor of ten although all rounds agree, so no interval over rounds
shows it. The CPU clock does not help: after an interruption the caches hold other processes' memory, and it measured a
ratio of 5.7 as 3.9 with eight other processes. So the system's counters are read around every call:

* how long this process's threads were ready to run and had no core (Linux counts it in nanoseconds, per thread);
* how many threads of other processes wanted a core at that moment;
* how much time the hypervisor took.

Wall times are in nanoseconds, as the clocks give them.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from lessen.core.machine import cores

INTERRUPTED = 0.01
"""Share of a call's time that a thread may wait for a core; above it the call does not count."""

WOKEN = 100_000
"""Nanoseconds that a thread may always wait: those of a pool wait that long when they are woken on a free core."""

CROWDED = 0.25
"""Share of the cores that other processes may want. Up to here a median over calls does not see their calls' share."""

STOLEN = 0.05
"""Share of the cores' time that the hypervisor may take."""

NOBODY = 0.05
"""Below this share of the cores nobody else was there: a thread that waited, waited for its own siblings."""

_NOT_BUSY = ("idle", "iowait", "guest", "guest_nice")  # guests are counted in user and nice as well

LONG_ENOUGH = 0.2
"""Seconds over which the machine's own counters, which move in steps of 10 ms, can be believed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the clocks and the scheduler say at one moment.

    Args:
        wall: Wall clock, ns.
        cpu: CPU time of all threads of this process, ns.
        waited: How long each thread of this process was ready and had no core, ns; None if not counted.
    """

    wall: int
    cpu: int
    waited: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Counters:
    """What the machine has counted since it started.

    Args:
        at: Wall clock, s.
        switches: How often a thread of this process was made to give its core away; None if not counted.
        busy: Seconds that the cores this process may use worked, for anyone.
        own: Seconds of CPU time of this process.
        stolen: Seconds that the hypervisor took.
    """

    at: float
    switches: int | None
    busy: float
    own: float
    stolen: float


class Meter(Protocol):
    """Where readings come from; tests give their own."""

    def start(self) -> None:
        """Called once the things to time are warm: their threads exist now."""

    def before(self) -> Reading:
        """A reading whose wall clock is read last."""

    def after(self) -> Reading:
        """A reading whose wall clock is read first."""

    def others(self) -> float | None:
        """How many threads of other processes want a core now; None where the system does not say."""

    def counters(self) -> Counters:
        """The machine's counters now."""

    def rest(self, seconds: float) -> None:
        """Wait, for the machine to become free."""

    def close(self) -> None:
        """Called at the end."""


class SystemMeter:
    """The system's own counters: all of them on Linux, fewer elsewhere."""

    def __init__(self) -> None:
        self._waits: list[int] = []

    def start(self) -> None:
        self.close()
        for path in sorted(Path("/proc/self/task").glob("*/schedstat")):
            with contextlib.suppress(OSError):  # a thread that has ended meanwhile
                self._waits.append(os.open(path, os.O_RDONLY))

    def close(self) -> None:
        """Give the open files back."""
        for descriptor in self._waits:
            os.close(descriptor)
        self._waits = []

    def before(self) -> Reading:
        # At its way out of the first system call a process that has used up its slice must give its core away: let it
        # happen here, before anything is counted.
        cpu = time.process_time_ns()
        waited = self._waited()
        return Reading(time.perf_counter_ns(), cpu, waited)

    def after(self) -> Reading:
        wall = time.perf_counter_ns()
        waited = self._waited()
        return Reading(wall, time.process_time_ns(), waited)

    def others(self) -> float | None:
        if cores() < (psutil.cpu_count() or 1):  # the count below is of all cores, and this process has only some
            return None
        try:
            runnable = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[0])
            own = sum(_runs(path) for path in Path("/proc/self/task").glob("*/stat"))
        except (OSError, ValueError, IndexError):
            return None
        return float(max(0, runnable - own))

    def counters(self) -> Counters:
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        taken = [each for core, each in enumerate(psutil.cpu_times(percpu=True)) if mine is None or core in mine]
        return Counters(
            at=time.perf_counter(),
            switches=_switches(),
            busy=sum(sum(each) - sum(getattr(each, name, 0.0) for name in _NOT_BUSY) for each in taken),
            own=time.process_time(),
            stolen=sum(getattr(each, "steal", 0.0) for each in taken),
        )

    def rest(self, seconds: float) -> None:
        time.sleep(seconds)

    def _waited(self) -> tuple[int, ...] | None:
        return tuple(map(_wait, self._waits)) if self._waits else None


def _wait(descriptor: int) -> int:
    """How long a thread has waited for a core since it began, ns; 0 if it has ended."""
    try:
        return int(os.pread(descriptor, 64, 0).split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def _runs(path: Path) -> bool:
    """Whether a thread of this process, by its `stat`, runs or waits for a core."""
    try:
        return path.read_bytes().rpartition(b")")[2].split()[0] == b"R"
    except (OSError, IndexError):
        return False


def _switches() -> int | None:
    try:
        import resource
    except ImportError:  # there is none on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What happened to the calls of one timing, and whether their times can be believed.

    Args:
        rounds: How many rounds were timed.
        calls: How many calls they made.
        discarded: How many of the calls do not count, because a thread waited for a core meanwhile.
        worst: The largest share of discarded calls of anything timed.
        switches: How often a thread of this process was made to give its core away; None if not counted.
        waited: How long its threads waited for a core, as a share of the time of all calls; None likewise.
        others: Share of the cores that other processes wanted, on average; None where the system does not say.
        stolen: Share of the cores' time that the hypervisor took; None if the timing was too short to tell.
        load: The system's load average over the last minute.
        wall_to_cpu: Wall time of all calls over their CPU time; None if no CPU time was seen.
        busy: Why the times cannot be believed, as text; None if they can.
    """

    rounds: int = 0
    calls: int = 0
    discarded: int = 0
    worst: float = 0.0
    switches: int | None = None
    waited: float | None = None
    others: float | None = None
    stolen: float | None = None
    load: float | None = None
    wall_to_cpu: float | None = None
    busy: str | None = None

    @property
    def alone(self) -> bool:
        """Whether nobody else wanted a core: a thread that waited, waited for its own siblings."""
        return self.others is not None and self.others < NOBODY and (self.stolen or 0.0) < NOBODY

    def to_json(self) -> dict[str, Any]:
        """The conditions as data for a record."""
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in asdict(self).items()
            if name != "worst"
        }


def interrupted(before: Reading, begin: Reading, end: Reading) -> bool:
    """Whether a call must not count: a thread waited for a core, in it or in the call that warmed the caches.

    Args:
        before: Before the call that warmed the caches.
        begin: Before the call.
        end: After it.
    """
    allowed = max(INTERRUPTED * (end.wall - begin.wall), WOKEN)
    return any(wait > allowed for wait in waits(before, end))


def waits(first: Reading, last: Reading) -> list[int]:
    """How long each thread waited for a core between two readings, ns; empty where the system does not count."""
    if first.waited is None or last.waited is None:
        return []
    return [after - before for before, after in zip(first.waited, last.waited, strict=True)]


def crowd(samples: Sequence[float], first: Counters, last: Counters) -> float | None:
    """The share of the cores that other processes wanted: by samples at each call, else by the machine's counters."""
    if samples:
        return sum(samples) / len(samples) / cores()
    passed = last.at - first.at
    if passed < LONG_ENOUGH:
        return None
    return max(0.0, (last.busy - first.busy) - (last.own - first.own)) / (passed * cores())


def stolen(first: Counters, last: Counters) -> float | None:
    """The share of the cores' time that the hypervisor took; None if too little time has passed to tell."""
    passed = last.at - first.at
    return (last.stolen - first.stolen) / (passed * cores()) if passed >= LONG_ENOUGH else None


def why_busy(conditions: Conditions) -> str | None:
    """Why times taken under these conditions cannot be believed, or None."""
    others, taken = conditions.others, conditions.stolen
    if others is not None and others > CROWDED:
        return f"other processes wanted {others:.0%} of its cores"
    if taken is not None and taken > STOLEN:
        return f"its hypervisor gave {taken:.0%} of its time to others"
    if conditions.worst > 0.5 and not conditions.alone:
        return f"{conditions.discarded} of {conditions.calls} calls had to wait for a core"
    return None
