"""A simulated scheduler: calls shorter than a slice escape it, and the clock must not be fooled."""

import json
import os
import sys

import numpy as np
import pytest

from lessen.core.errors import BusyError
from lessen.measure import Estimate, Speed, Timings, interleave, median_with_interval
from lessen.measure import disturbance as module
from lessen.measure.disturbance import Conditions, Counters, Reading, SystemMeter, interrupted, why_busy

MS = 1_000_000


class Machine:
    """One core, shared: after each slice of CPU time every other process gets a slice before this one goes on.

    Args:
        others: How many other processes are busy.
        seen: Whether the system tells how many there are.
        counted: Whether the system counts how long a thread waited.
        step: Step of the CPU clock, ns.
        rests_until: At how many rests the others have gone.
        every: This process is interrupted after so much CPU time, ns.
        early: With less than this left of its slice it gives its core away when it asks for a reading, ns: what has to
            be done is done at the next system call.
    """

    def __init__(
        self,
        others: int,
        *,
        seen: bool = True,
        counted: bool = True,
        step: int = 1,
        rests_until: int | None = None,
        every: int = 4 * MS,
        early: int = 0,
    ) -> None:
        self.now = self.used = self.waits = self.calls = self.rests = 0
        self.wanting, self.seen, self.counted, self.step = others, seen, counted, step
        self.rests_until, self.every, self.early, self.stolen = rests_until, every, early, 0.0
        self.source = np.random.default_rng(0)
        self.left = every

    def takes(self, milliseconds: float):
        def run() -> None:
            self.calls += 1
            rest = int(MS * milliseconds * self.source.uniform(0.98, 1.02))
            while rest:
                done = min(rest, self.left)
                rest, self.left = rest - done, self.left - done
                self.now, self.used = self.now + done, self.used + done
                if not self.left:
                    self.give_way()

        return run

    def give_way(self) -> None:
        self.left = self.every
        pause = int(4 * MS * self.wanting * self.source.uniform(0.8, 1.2))
        self.now, self.waits = self.now + pause, self.waits + pause

    def start(self) -> None: ...

    def close(self) -> None: ...

    def before(self) -> Reading:
        if self.left < self.early:
            self.give_way()
        return self.after()

    def after(self) -> Reading:
        return Reading(self.now, self.used // self.step * self.step, (self.waits,) if self.counted else None)

    def others(self) -> float | None:
        return float(self.wanting) if self.seen else None

    def counters(self) -> Counters:
        busy = self.now / 1e9 * module.cores()
        return Counters(at=self.now / 1e9, switches=0, busy=busy, own=self.used / 1e9, stolen=self.stolen)

    def rest(self, seconds: float) -> None:
        self.rests += 1
        if self.rests == self.rests_until:
            self.wanting = 0


def timed(machine: Machine, **settings) -> Timings:
    """A file of 6.6 ms and one of 1 ms, each call by itself: the true ratio is 6.6."""
    return interleave({"long": machine.takes(6.6), "short": machine.takes(1.0)}, block=0, meter=machine, **settings)


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", lambda: 1)


def by_wall_alone(timings: Timings) -> Estimate:
    """What was reported before: the median of the paired ratios of all wall times, with its interval."""
    return median_with_interval(timings.milliseconds["long"] / timings.milliseconds["short"])


@pytest.mark.parametrize("seen", [True, False], ids=["seen", "only felt"])
def test_short_calls_escape_and_the_clock_says_that_the_machine_was_busy(seen: bool) -> None:
    machine = Machine(10, seen=seen, early=int(1.5 * MS))
    timings = timed(machine, insist=True)
    fooled = by_wall_alone(timings)
    assert fooled.value > 40, "the planted machine fools wall times"
    assert fooled.low is not None
    assert fooled.low > 30, "and no interval over rounds notices"
    assert timings.busy is not None
    for ask in (
        lambda: timings.ratio("long", "short"),
        lambda: timings.median("short"),
        lambda: timings.interval("long"),
    ):
        with pytest.raises(BusyError, match=r"machine was busy while (long|short) was timed"):
            ask()
    cpu = timings.cpu_estimate("long"), timings.cpu_estimate("short")
    assert cpu[0] is not None
    assert cpu[1] is not None
    assert cpu[0].value / cpu[1].value == pytest.approx(6.6, rel=0.05)
    if not seen:
        # Of the counters of the machine only the total is left, and it is believed.
        assert timings.conditions.others is not None


def test_without_any_count_of_others_the_waits_tell() -> None:
    machine = Machine(10, seen=False)
    still = machine.counters()
    machine.counters = lambda: still  # type: ignore[method-assign]
    timings = timed(machine)
    assert timings.busy is not None
    assert "had to wait for a core" in timings.busy
    assert timings.conditions.others is None


def test_a_few_interruptions_are_discarded_and_made_up_for() -> None:
    machine = Machine(1, seen=False, every=60 * MS)
    machine.others = lambda: 0.1  # type: ignore[method-assign]
    timings = timed(machine)
    assert timings.busy is None
    assert timings.conditions.discarded > 0
    assert timings.conditions.rounds > 30
    assert all(each.sum() >= 30 for each in timings.clean.values())
    ratio, low, high = timings.ratio("long", "short")
    assert low < 6.6 < high
    assert ratio == pytest.approx(6.6, rel=0.03)
    assert timings.median("long") == pytest.approx(6.6, rel=0.02)
    assert max(timings.milliseconds["long"]) > 9, "the discarded ones are still there to see"
    assert timings.conditions.waited is not None
    assert 0 < timings.conditions.waited < 0.2
    assert timings.conditions.wall_to_cpu == pytest.approx(1 + timings.conditions.waited, rel=0.1)


def test_a_free_machine_is_timed_as_often_as_asked_for() -> None:
    machine = Machine(0)
    timings = timed(machine, rounds=12, warm_up=2)
    assert timings.busy is None
    assert timings.conditions.rounds == 12
    assert machine.rests == 0
    assert machine.calls == 2 * (2 + 2 * 12), "two warm-up rounds, then each call after one that warms the caches"
    assert timings.conditions.discarded == 0


def test_it_is_tried_again_and_then_given_up() -> None:
    machine = Machine(10, rests_until=1)
    assert timed(machine).busy is None
    assert machine.rests == 1
    machine = Machine(10)
    assert timed(machine).busy is not None
    assert machine.rests == 1
    assert machine.calls == 2 * (2 + 2 * 2 * 6), "six rounds are enough to see that it is hopeless"
    machine = Machine(10)
    assert len(timed(machine, rounds=40, insist=True).milliseconds["long"]) == 40


def test_threads_in_each_others_way_are_no_business_of_others() -> None:
    """With more threads than cores each call waits, for its own siblings: that is its time."""
    machine = Machine(1)
    machine.others = lambda: 0.0  # type: ignore[method-assign]
    timings = timed(machine)
    assert timings.busy is None
    assert timings.conditions.waited is not None
    assert timings.conditions.waited > 0.3
    assert timings.median("long") > 10


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        (Conditions(others=0.2), None),
        (Conditions(others=0.3), "30% of its cores"),
        (Conditions(others=0.0, stolen=0.02), None),
        (Conditions(others=0.0, stolen=0.1), "hypervisor"),
        (Conditions(others=0.01, worst=0.9, calls=60, discarded=30), None),
        (Conditions(others=0.1, worst=0.4, calls=60, discarded=12), None),
        (Conditions(others=0.1, worst=0.6, calls=60, discarded=20), "20 of 60 calls"),
        (Conditions(worst=0.6, calls=60, discarded=20), "20 of 60 calls"),
        (Conditions(), None),
    ],
)
def test_what_counts_as_busy(conditions: Conditions, word: str | None) -> None:
    said = why_busy(conditions)
    assert said is None if word is None else word in str(said)


def test_stolen_time_is_seen_where_there_was_time_to_see_it() -> None:
    first = Counters(at=0.0, switches=0, busy=0.0, own=0.0, stolen=0.0)
    assert module.stolen(first, Counters(at=1.0, switches=0, busy=1.0, own=0.5, stolen=0.2)) == pytest.approx(0.2)
    assert module.stolen(first, Counters(at=0.1, switches=0, busy=0.1, own=0.1, stolen=0.1)) is None
    assert module.crowd([], first, Counters(at=1.0, switches=0, busy=1.0, own=0.4, stolen=0.0)) == pytest.approx(0.6)
    assert module.crowd([0.0, 1.0], first, first) == pytest.approx(0.5)


def test_a_wait_in_the_call_that_warms_the_caches_counts_too() -> None:
    before, begin = Reading(0, 0, (0, 0)), Reading(2 * MS, MS, (0, MS))
    assert interrupted(before, begin, Reading(3 * MS, 2 * MS, (0, MS)))
    assert not interrupted(begin, begin, Reading(3 * MS, 2 * MS, (0, MS)))
    assert not interrupted(Reading(0, 0, None), Reading(0, 0, None), Reading(MS, MS, None))


def test_the_threads_of_a_pool_may_be_woken() -> None:
    begin, woken = Reading(0, 0, (0,) * 8), Reading(MS, 4 * MS, (50_000,) * 8)
    assert not interrupted(begin, begin, woken)
    assert interrupted(begin, begin, Reading(MS, 4 * MS, (0,) * 7 + (200_000,)))
    assert not interrupted(begin, begin, Reading(100 * MS, 400 * MS, (0,) * 7 + (200_000,))), "a fifth of a percent"


@pytest.mark.parametrize(("step", "known"), [(1, True), (4 * MS, False), (15_625_000, False)])
def test_a_coarse_cpu_clock_is_not_believed(step: int, known: bool) -> None:
    found = timed(Machine(0, step=step)).cpu_estimate("long")
    assert (found is not None) == known
    if found is not None:
        assert found.value == pytest.approx(6.6, rel=0.02)


def test_no_interval_is_narrower_than_what_loading_again_moves() -> None:
    steady = Timings({"a": np.full(30, 4.0), "b": np.full(30, 1.0)})
    assert steady.ratio("a", "b") == pytest.approx((4.0, 4 - 0.12, 4 + 0.12))
    assert steady.interval("b") == pytest.approx((0.95, 1.05))


def test_a_ratio_without_common_rounds_is_that_of_the_medians() -> None:
    first = np.arange(20) < 10
    apart = Timings({"a": np.full(20, 4.0), "b": np.full(20, 1.0)}, {"a": first, "b": ~first})
    ratio, low, high = apart.ratio("a", "b")
    assert ratio == 4
    assert low < 4 / 1.05 < 4 * 1.05 < high


def test_a_busy_speed_has_its_cpu_time_and_the_reason() -> None:
    timings = timed(Machine(10))
    speed = Speed.of(timings, "short", "long")
    figures = {name: value for name, value, _ in speed.figures(1, compared=True)}
    assert figures["latency"] is figures["throughput"] is figures["speedup"] is None
    assert figures["cpu_time"] is not None
    detail = json.loads(json.dumps(speed.detail(), allow_nan=False))
    assert detail["reason"].startswith("the machine was busy: other processes wanted")
    assert {
        "rounds",
        "calls",
        "discarded",
        "switches",
        "waited",
        "others",
        "stolen",
        "load",
        "wall_to_cpu",
        "busy",
    } == set(detail["conditions"])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_a_process_with_some_of_the_cores_does_not_count_who_runs_on_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    meter, allowed = SystemMeter(), os.sched_getaffinity(0)
    every = meter.counters().busy
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(sorted(allowed)[:1]))
    monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(module.psutil, "cpu_count", lambda: 64)
    assert meter.others() is None
    if len(allowed) > 1:
        assert meter.counters().busy < every


def test_the_system_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "cores", module.psutil.cpu_count)
    meter = SystemMeter()
    meter.start()
    try:
        first, counted = meter.before(), meter.counters()
        sum(range(10_000))
        last = meter.after()
        assert last.wall > first.wall
        assert last.cpu >= first.cpu
        assert counted.busy >= 0
        if sys.platform == "linux":
            assert first.waited is not None
            assert last.waited is not None
            assert last.waited >= first.waited
            assert meter.others() is not None
    finally:
        meter.close()
    assert meter.before().waited is None
