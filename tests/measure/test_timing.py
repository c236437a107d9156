"""The clock: known times, known ratios, order, threads. What a busy machine does to it is in test_disturbance.py."""

import gc

import numpy as np
import pytest
import torch
from torch import nn

from lessen.core.errors import SettingError
from lessen.measure import Estimate, Timings, interleave, pinned_threads, throughput, time_networks
from lessen.measure.disturbance import Counters, Reading


class World:
    """A clock that only moves when something runs, by a known time with a known spread."""

    def __init__(self) -> None:
        self.now = 0
        self.source = np.random.default_rng(0)

    def takes(self, milliseconds: float):
        def run() -> None:
            self.now += int(1e6 * milliseconds * self.source.uniform(0.9, 1.1))

        return run

    def before(self) -> Reading:
        return Reading(self.now, self.now, (0,))

    after = before

    def others(self) -> float:
        return 0.0

    def counters(self) -> Counters:
        return Counters(at=self.now / 1e9, switches=0, busy=0.0, own=0.0, stolen=0.0)

    def start(self) -> None: ...

    def close(self) -> None: ...

    def rest(self, seconds: float) -> None: ...


def check_clock(time_it) -> None:
    world = World()
    timings = time_it({"slow": world.takes(4), "fast": world.takes(1)}, world)
    assert timings.median("slow") == pytest.approx(4, rel=0.05)
    assert timings.median("fast") == pytest.approx(1, rel=0.05)
    for name in ("slow", "fast"):
        low, high = timings.interval(name)
        assert low < timings.median(name) < high
    ratio, low, high = timings.ratio("slow", "fast")
    assert low < ratio < high
    assert ratio == pytest.approx(4, rel=0.05)


def test_known_times_and_their_ratio() -> None:
    check_clock(lambda runs, world: interleave(runs, rounds=50, warm_up=1, meter=world))


def test_a_ratio_the_wrong_way_round_is_found() -> None:
    def wrong(runs, world):
        timings = interleave(runs, rounds=50, warm_up=1, meter=world)
        return Timings({"slow": timings.milliseconds["fast"], "fast": timings.milliseconds["slow"]})

    with pytest.raises(AssertionError):
        check_clock(wrong)


class Costly(World):
    """A clock whose readings cost the next call 0.1 ms, as emptied caches do."""

    cold = 0

    def before(self) -> Reading:
        self.cold = 100_000
        return super().before()

    def takes(self, milliseconds: float, times: int = 1):
        one = super().takes(milliseconds)

        def run() -> None:
            for _ in range(times):
                one()
            self.now, self.cold = self.now + self.cold, 0

        return run


@pytest.mark.parametrize(("block", "wanted"), [(5.0, 6.0), (0.0, 5.0)])
def test_short_calls_are_timed_in_blocks_so_that_all_lengths_pay_the_same_for_the_clock(block, wanted) -> None:
    world = Costly()
    runs = {"six": world.takes(0.4, 6), "one": world.takes(0.4)}
    ratio = interleave(runs, rounds=50, block=block, meter=world).ratio("six", "one")[0]
    assert ratio == pytest.approx(wanted, rel=0.02), "2.5 ms over 0.5 ms where each call is timed alone"


def test_a_block_holds_as_many_calls_as_fill_it() -> None:
    world, calls = World(), {"long": 0, "short": 0, "nothing": 0}

    def counted(name: str, milliseconds: float):
        one = world.takes(milliseconds)

        def run() -> None:
            calls[name] += 1
            one()

        return run

    runs = {name: counted(name, each) for name, each in (("long", 40), ("short", 1), ("nothing", 0))}
    interleave(runs, rounds=6, warm_up=1, block=4.5, meter=world)
    # Of each round one call is untimed; the first one of all tells the length.
    assert calls["long"] == 1 + 6 * (1 + 1)
    assert calls["short"] in {1 + 6 * (1 + 5), 1 + 6 * (1 + 4)}, "its first call took from 0.9 to 1.1 ms"
    assert calls["nothing"] == 1 + 6 * (1 + 1000)


def drifting(round_of, count: int) -> Timings:
    """Two things of which one takes twice as long, on a machine that slows down tenfold while they are timed."""
    pace = np.geomspace(1, 10, count)
    return Timings({"a": 2 * pace, "b": pace[round_of]})


def test_a_slow_hour_does_not_move_a_paired_ratio() -> None:
    ratio, low, high = drifting(np.arange(30), 30).ratio("a", "b")
    assert ratio == pytest.approx(2)
    assert high - low < 0.13, "nothing but what every ratio is uncertain by"


def test_without_pairs_it_would() -> None:
    ratio = drifting(np.arange(30)[::-1], 30).ratio("a", "b")
    assert ratio[2] - ratio[1] > 1


def test_every_round_calls_each_once_in_shuffled_order() -> None:
    calls: list[str] = []
    names = ("a", "b", "c")
    timings = interleave(
        {name: lambda name=name: calls.append(name) for name in names}, rounds=20, warm_up=2, block=0, seed=1
    )
    assert calls[6::2] == calls[7::2], "each timed call comes right after an untimed one of the same"
    calls = calls[:6] + calls[6::2]
    rounds = [tuple(calls[start : start + 3]) for start in range(0, len(calls), 3)]
    assert len(rounds) == 22
    assert all(sorted(order) == list(names) for order in rounds)
    assert len(set(rounds)) > 3
    assert all(timings.milliseconds[name].shape == (20,) for name in names)


def test_the_order_repeats_under_a_seed() -> None:
    def order(seed: int) -> list[str]:
        calls: list[str] = []
        interleave({name: lambda name=name: calls.append(name) for name in "abcd"}, rounds=10, block=0, seed=seed)
        return calls

    assert order(0) == order(0) != order(1)


def test_garbage_is_not_collected_while_timing_and_is_afterwards() -> None:
    seen: list[bool] = []
    interleave({"a": lambda: seen.append(gc.isenabled())}, rounds=6)
    assert not any(seen)
    assert gc.isenabled()


@pytest.mark.parametrize(("rounds", "warm_up", "block"), [(5, 1, 5.0), (0, 0, 5.0), (10, 0, 5.0), (10, 1, -1.0)])
def test_too_few_rounds_are_refused(rounds: int, warm_up: int, block: float) -> None:
    with pytest.raises(SettingError, match=f"rounds={rounds}, warm_up={warm_up} and block={block}"):
        interleave({"a": int}, rounds=rounds, warm_up=warm_up, block=block)


def test_nothing_to_time_and_unknown_names() -> None:
    with pytest.raises(SettingError, match="no callables to time"):
        interleave({})
    with pytest.raises(SettingError, match="did you mean 'student'"):
        interleave({"student": int}, rounds=6).median("studnet")


def test_threads_are_pinned_and_given_back() -> None:
    before = torch.get_num_threads()
    with pinned_threads(before + 1) as used:
        assert used == torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
    with pytest.raises(RuntimeError, match="inside"), pinned_threads(before + 2):
        raise RuntimeError("inside")
    assert torch.get_num_threads() == before
    with pinned_threads(None) as used:
        assert used == before
    with pytest.raises(SettingError, match="Got 0 threads"), pinned_threads(0):
        pass


def test_networks_are_timed_in_eval_mode_without_gradients_and_left_alone() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen: set[tuple[bool, bool]] = set()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.seen.add((self.training, torch.is_grad_enabled()))
            return x

    model = Looks()
    time_networks({"a": model, "b": lambda inputs: inputs}, torch.zeros(1), rounds=6)
    assert model.seen == {(False, False)}
    assert model.training
    assert torch.is_grad_enabled()


def test_a_larger_network_takes_longer() -> None:
    large, small = nn.Linear(1500, 1500), nn.Linear(100, 100)
    with pinned_threads(1):
        timings = time_networks(
            {"large": large, "small": lambda x: small(x[:, :100])}, torch.randn(32, 1500), rounds=15
        )
    ratio, low, _ = timings.ratio("large", "small")
    assert ratio > 5
    assert low > 1


def test_throughput_turns_the_interval_over() -> None:
    assert throughput(Estimate(10.0, 5.0, 20.0), 1) == Estimate(100.0, 50.0, 200.0)
    assert throughput(Estimate(10.0), 3) == Estimate(300.0)
