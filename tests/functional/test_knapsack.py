"""The multiple-choice knapsack against enumeration, against HiGHS, and against two ways of getting it wrong."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from lessen.core.errors import PlanError, ShapeError
from lessen.functional.knapsack import Choices, knapsack

Table = list[list[float]]


def total(table: Table, chosen: list[int]) -> float:
    return sum(row[k] for row, k in zip(table, chosen, strict=True))


def enumerated(losses: Table, costs: Table, budget: float) -> tuple[float, float] | None:
    """The least loss within the budget and the least cost at which it is had, by trying everything."""
    found = [
        (total(losses, list(chosen)), total(costs, list(chosen)))
        for chosen in itertools.product(*(range(len(row)) for row in losses))
        if total(costs, list(chosen)) <= budget + 1e-9
    ]
    return min(found) if found else None


# Small whole numbers tie often; halves and tenths do not add up exactly.
numbers = st.one_of(st.integers(0, 4).map(float), st.sampled_from([0.0, 0.1, 0.2, 0.3, 1e-6, 2.5]))
item = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=4)


@given(st.lists(item, min_size=1, max_size=5), st.floats(0, 12))
@given_settings(max_examples=300, deadline=None, derandomize=True)
def test_it_is_the_best_of_all_choices(items: list[list[tuple[float, float]]], budget: float) -> None:
    losses = [[loss for loss, _ in each] for each in items]
    costs = [[cost for _, cost in each] for each in items]
    best = enumerated(losses, costs, budget)
    if best is None:
        with pytest.raises(PlanError, match="cheapest options cost"):
            knapsack(losses, costs, budget)
        return
    chosen = knapsack(losses, costs, budget)
    assert total(losses, chosen) == pytest.approx(best[0], abs=1e-12)
    assert total(costs, chosen) == pytest.approx(best[1], abs=1e-12)


def test_it_agrees_with_a_solver_on_sizes_that_cannot_be_enumerated() -> None:
    draw = np.random.default_rng(0)
    for case in range(6):
        count, options = 24, 10
        costs = np.sort(draw.random((count, options)) * draw.lognormal(0, 1, (count, 1)), 1)
        # Losses nearly in proportion to what is saved are the hard ones.
        losses = (costs[:, -1:] - costs) * (1 + 0.1 * draw.random((count, options)))
        budget = float(costs[:, 0].sum() + draw.uniform(0.1, 0.9) * (costs[:, -1] - costs[:, 0]).sum())
        chosen = knapsack(losses.tolist(), costs.tolist(), budget)
        mine = float(losses[np.arange(count), chosen].sum())
        assert costs[np.arange(count), chosen].sum() <= budget + 1e-9
        assert mine == pytest.approx(by_highs(losses, costs, budget), rel=1e-6), case


def test_a_gap_is_kept_where_losses_follow_costs() -> None:
    draw = np.random.default_rng(1)
    costs = np.sort(draw.random((60, 16)) * draw.lognormal(0, 1, (60, 1)), 1)
    losses = (costs[:, -1:] - costs) * (1 + 0.001 * draw.random((60, 16)))
    at_stake = float((losses.max(1) - losses.min(1)).sum())
    budget = float(costs[:, 0].sum() + 0.4 * (costs[:, -1] - costs[:, 0]).sum())
    chosen = knapsack(losses.tolist(), costs.tolist(), budget, gap=1e-3)
    # No choice loses less than what it saves in cost, of which there must be so much.
    least = float(costs[:, -1].sum()) - budget
    assert float(losses[np.arange(60), chosen].sum()) <= least * 1.001 + 1e-3 * at_stake
    assert float(costs[np.arange(60), chosen].sum()) <= budget + 1e-9


def test_a_gap_is_never_exceeded() -> None:
    """Against the exact choice, over 60 draws whose losses nearly follow their costs; some use over 0.8 of a gap."""
    used = []
    for seed, gap in itertools.product(range(60), (0.003, 0.01, 0.03, 0.1)):
        draw = np.random.default_rng(seed)
        costs = np.sort(draw.random((6, 4)), 1)
        losses = (costs[:, -1:] - costs) * (1 + 0.3 * draw.random((6, 4)))
        budget = float(costs[:, 0].sum() + draw.uniform(0.2, 0.8) * (costs[:, -1] - costs[:, 0]).sum())
        choices = Choices(losses.tolist(), costs.tolist())
        exact, loose = (total(losses.tolist(), choices.within(budget, gap=each)) for each in (0.0, gap))
        used.append((loose - exact) / (gap * choices.stake))
    assert 0.8 < max(used) <= 1


def by_highs(losses: np.ndarray, costs: np.ndarray, budget: float) -> float:
    count, options = losses.shape
    one_each = LinearConstraint(np.kron(np.eye(count), np.ones((1, options))), 1, 1)
    within = LinearConstraint(costs.reshape(1, -1), -np.inf, budget)
    made = milp(
        losses.ravel(),
        constraints=[one_each, within],
        integrality=np.ones(losses.size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    return float(made.fun)


def greedy(losses: Table, costs: Table, budget: float) -> list[int]:
    """A planted error: take the cheapest options, then whatever single step brings most for its cost."""
    chosen = [int(np.argmin(row)) for row in costs]
    while True:
        steps = [
            ((losses[i][chosen[i]] - losses[i][k]) / (costs[i][k] - costs[i][chosen[i]]), i, k)
            for i in range(len(costs))
            for k in range(len(costs[i]))
            if losses[i][k] < losses[i][chosen[i]]
            and total(costs, [*chosen[:i], k, *chosen[i + 1 :]]) <= budget
            and costs[i][k] > costs[i][chosen[i]]
        ]
        if not steps:
            return chosen
        _, i, k = max(steps)
        chosen[i] = k


def in_buckets(losses: Table, costs: Table, budget: float, *, buckets: int = 10) -> float:
    """The other: costs rounded down to buckets, and options that fall below the first are skipped."""
    best = {0: 0.0}
    for loss, cost in zip(losses, costs, strict=True):
        then: dict[int, float] = {}
        for used, lost in best.items():
            for one, each in zip(loss, cost, strict=True):
                whole = int(each / budget * buckets)
                if whole and used + whole <= buckets:
                    then[used + whole] = min(then.get(used + whole, np.inf), lost + one)
        best = then
    return min(best.values(), default=np.inf)


def test_planted_errors_are_seen() -> None:
    losses, costs = [[10.0, 0.0], [9.0, 0.0], [9.0, 0.0]], [[0.0, 5.1], [0.0, 5.0], [0.0, 5.0]]
    best = enumerated(losses, costs, 10.0)
    assert best is not None
    assert total(losses, knapsack(losses, costs, 10.0)) == best[0] == 10.0
    assert total(losses, greedy(losses, costs, 10.0)) == 18.0
    # An option that costs next to nothing is the right one, and buckets do not see it.
    losses, costs = [[0.0, 1.0], [0.0, 5.0]], [[9.0, 0.01], [9.0, 0.5]]
    assert knapsack(losses, costs, 9.2) == [1, 0]
    assert in_buckets(losses, costs, 9.2) == np.inf


def test_options_that_cost_nothing() -> None:
    assert knapsack([[1.0, 0.0], [2.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]], 0.0) == [1, 0]
    assert knapsack([], [], 0.0) == []


def test_what_it_does_not_take() -> None:
    with pytest.raises(PlanError, match=r"Nothing costs 1 or less: the cheapest options cost 3 together"):
        knapsack([[0.0], [0.0]], [[1.0], [2.0]], 1.0)
    with pytest.raises(ShapeError, match=r"losses \(1,\) and costs \(2,\)"):
        knapsack([[0.0]], [[1.0, 2.0]], 1.0)
    with pytest.raises(PlanError, match="not a finite"):
        knapsack([[float("nan")]], [[1.0]], 1.0)


def test_ranks_of_layers_within_a_number_of_weights() -> None:
    """The same solver for ranks: each layer whole, or in two thin ones, at the least squared error within a size."""
    draw = np.random.default_rng(0)
    shapes = [(6, 8), (10, 5), (7, 7)]
    spectra = [np.linalg.svd(draw.normal(size=shape) * 0.7 ** np.arange(shape[1]))[1] for shape in shapes]
    losses = [[*(float((s[rank:] ** 2).sum()) for rank in range(1, len(s))), 0.0] for s in spectra]
    costs = [
        [*(float(rank * (m + n)) for rank in range(1, min(m, n))), float(m * n)] for m, n in shapes
    ]  # whole: no factors
    for budget in (45.0, 60.0, 90.0):
        best = enumerated(losses, costs, budget)
        assert best is not None
        chosen = knapsack(losses, costs, budget)
        assert total(costs, chosen) <= budget
        assert total(losses, chosen) == pytest.approx(best[0], abs=1e-12)
    alike = [row.index(max(c for c in row if c <= 20)) for row in costs]  # the planted error: as many for each
    assert total(losses, alike) > total(losses, knapsack(losses, costs, 60.0))
