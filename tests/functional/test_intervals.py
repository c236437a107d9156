"""Intervals against scipy, and against what they promise: to hold the truth 95 times in 100."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lessen.core.errors import DataError
from lessen.measure import Estimate, bootstrap, mean_with_interval, median_with_interval, wilson


def check_wilson(function, successes: int, trials: int) -> None:
    found = function(successes, trials)
    oracle = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    assert found.value == successes / trials
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=1e-12)


@settings(deadline=None)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    check_wilson(wilson, *case)


def test_the_plain_normal_interval_is_not_wilsons() -> None:
    def normal(successes: int, trials: int) -> Estimate:
        share = successes / trials
        half = 1.96 * (share * (1 - share) / trials) ** 0.5
        return Estimate(share, share - half, share + half)

    with pytest.raises(AssertionError):
        check_wilson(normal, 97, 100)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 5)])
def test_impossible_counts_are_refused(successes: int, trials: int) -> None:
    with pytest.raises(DataError, match=f"{successes} successes in {trials}"):
        wilson(successes, trials)


def check_mean(function) -> None:
    values = np.random.default_rng(0).exponential(size=50)
    found = function(torch.from_numpy(values))
    low, high = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-12)


def test_mean_is_scipys_normal_interval() -> None:
    check_mean(mean_with_interval)


def test_an_interval_of_the_spread_and_not_of_the_mean_is_found() -> None:
    def spread(values: torch.Tensor) -> Estimate:
        mean, half = float(values.mean()), 1.96 * float(values.std())
        return Estimate(mean, mean - half, mean + half)

    with pytest.raises(AssertionError):
        check_mean(spread)


def check_median(function, count: int) -> None:
    values = np.random.default_rng(count).lognormal(size=count)
    found = function(values)
    oracle = stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert found.value == np.median(values)
    assert (found.low, found.high) == (oracle.low, oracle.high)


@pytest.mark.parametrize("count", [6, 7, 10, 11, 25, 30, 100, 999])
def test_median_is_scipys_order_statistics(count: int) -> None:
    check_median(median_with_interval, count)


def test_one_rank_too_narrow_is_found() -> None:
    def narrow(values: np.ndarray) -> Estimate:
        ordered = np.sort(values)
        below, above = (int(np.searchsorted(ordered, end)) for end in _ends(values))
        return Estimate(float(np.median(values)), ordered[below + 1], ordered[above - 1])

    with pytest.raises(AssertionError):
        check_median(narrow, 30)


def _ends(values: np.ndarray) -> tuple[float, float]:
    found = median_with_interval(values)
    assert found.low is not None
    assert found.high is not None
    return found.low, found.high


def test_five_values_have_no_interval() -> None:
    assert median_with_interval(np.arange(5.0)) == Estimate(2.0, None, None)


def test_median_interval_holds_the_median_at_least_95_times_in_100() -> None:
    source = np.random.default_rng(1)
    held = [low <= np.log(2) <= high for low, high in (_ends(source.exponential(size=21)) for _ in range(2000))]
    assert 0.94 <= np.mean(held) <= 0.99


def check_bootstrap(function) -> None:
    values = np.random.default_rng(0).exponential(size=80)
    found = function(lambda index: float(values[index.numpy()].mean()), len(values))
    oracle = stats.bootstrap((values,), np.mean, method="basic", n_resamples=4000, random_state=0).confidence_interval
    width = oracle.high - oracle.low
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.05 * width)


def test_bootstrap_is_scipys_basic_one() -> None:
    check_bootstrap(lambda figure, count: bootstrap(figure, count, draws=4000))


def test_a_bootstrap_without_replacement_is_found() -> None:
    def shuffled(figure, count: int) -> Estimate:
        again = [figure(torch.randperm(count)) for _ in range(200)]
        return Estimate(figure(torch.arange(count)), float(np.quantile(again, 0.025)), float(np.quantile(again, 0.975)))

    with pytest.raises(AssertionError):
        check_bootstrap(shuffled)


def test_bootstrap_repeats_under_its_seed() -> None:
    values = torch.randn(30, generator=torch.Generator().manual_seed(0))

    def figure(index: torch.Tensor) -> float:
        return float(values[index].std())

    assert bootstrap(figure, 30, seed=3) == bootstrap(figure, 30, seed=3)
    assert bootstrap(figure, 30, seed=3) != bootstrap(figure, 30, seed=4)


@pytest.mark.parametrize("function", [mean_with_interval, lambda values: median_with_interval(values.numpy())])
def test_nothing_has_no_mean_and_no_median(function) -> None:
    with pytest.raises(DataError, match="at least one"):
        function(torch.empty(0))


def test_one_value_has_a_mean_and_no_interval() -> None:
    assert mean_with_interval(torch.tensor([2.0])) == Estimate(2.0)
