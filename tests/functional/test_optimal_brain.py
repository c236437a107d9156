"""Least squares on a support, and the ways to a support, against enumeration and slow loops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lessen.functional import optimal_brain, quadratic
from lessen.functional.alternating import alternate, conjugate_gradients
from lessen.functional.column_pruning import inverse_factor, prune_columns
from lessen.functional.optimal_brain import cheapest_first, first_of, removal_order
from lessen.functional.quadratic import damped, on_support, quadratic_error


def problem(rows: int, inputs: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Weights, inputs (P, I) of different sizes and correlated with their neighbours, and H."""
    drawn = torch.Generator().manual_seed(seed)
    apart_II = (torch.arange(inputs).unsqueeze(1) - torch.arange(inputs)).abs()
    mixed_II = torch.linalg.cholesky(0.6 ** apart_II.double())
    size_I = torch.randn(inputs, generator=drawn, dtype=torch.float64).mul(0.7).exp()
    x_PI = torch.randn(8 * inputs, inputs, generator=drawn, dtype=torch.float64) @ mixed_II.T * size_I
    return torch.randn(rows, inputs, generator=drawn, dtype=torch.float64), x_PI, x_PI.T @ x_PI


def slow_on_support(weight_I: Tensor, x_PI: Tensor, kept: list[int]) -> Tensor:
    """Least squares on the inputs themselves, by another algorithm."""
    found = torch.zeros_like(weight_I)
    if kept:
        found[kept] = torch.linalg.lstsq(x_PI[:, kept], x_PI @ weight_I).solution
    return found


def error(weight_RI: Tensor, found_RI: Tensor, x_PI: Tensor) -> float:
    return float(
        (x_PI @ (found_RI - weight_RI).mT if found_RI.ndim > 1 else x_PI @ (found_RI - weight_RI)).square().sum()
    )


def optimum(weight_I: Tensor, x_PI: Tensor, count: int) -> float:
    """The least error of all supports."""
    sets = itertools.combinations(range(len(weight_I)), count)
    return min(error(weight_I, slow_on_support(weight_I, x_PI, list(kept)), x_PI) for kept in sets)


def test_the_error_is_that_of_the_outputs() -> None:
    weight, x, gram = problem(3, 5)
    other = torch.randn_like(weight)
    assert torch.allclose(quadratic_error(other - weight, gram).sum(), torch.tensor(error(weight, other, x)).double())


@pytest.mark.parametrize("largest", [2**24, 40])
def test_on_support_is_least_squares(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quadratic, "_LARGEST", largest)
    weight, x, gram = problem(7, 6)
    kept = torch.rand(7, 6, generator=torch.Generator().manual_seed(3)) < 0.5
    kept[0], kept[1] = False, True
    found = on_support(weight, gram, kept)
    for row in range(7):
        by_hand = slow_on_support(weight[row], x, kept[row].nonzero().view(-1).tolist())
        assert torch.allclose(found[row], by_hand, atol=1e-9)
    assert torch.equal(found[1], found[1] * kept[1])
    assert torch.allclose(found[1], weight[1])
    # The planted error: the weights that are kept, as they are.
    assert error(weight, weight * kept, x) > error(weight, found, x) + 0.1


def test_inputs_that_are_always_zero_move_nothing_and_cost_nothing() -> None:
    weight, x, _ = problem(2, 5)
    x[:, 3] = 0
    gram = damped(x.T @ x, 0.0)
    assert torch.linalg.eigvalsh(gram).min() > 0
    order, cost = removal_order(weight, gram)
    assert order[:, 0].tolist() == [3, 3]
    assert cost[:, 0].max() < 1e-3 * cost[:, 1].min()
    kept = torch.tensor([[True, False, True, True, True]]).expand(2, -1)
    assert torch.allclose(on_support(weight, gram, kept)[:, 3], weight[:, 3])
    assert torch.equal(damped(torch.zeros(2, 2), 0.1), torch.eye(2).double())


def test_one_step_is_what_trying_every_weight_finds() -> None:
    for seed in range(5):
        weight, x, gram = problem(3, 7, seed)
        order, cost = removal_order(weight, gram)
        for row in range(3):
            tried = []
            for place in range(7):
                kept = [other for other in range(7) if other != place]
                tried.append(error(weight[row], slow_on_support(weight[row], x, kept), x))
            assert int(order[row, 0]) == min(range(7), key=tried.__getitem__)
            assert float(cost[row, 0]) == pytest.approx(min(tried), rel=1e-6)


def slow_greedy(weight_I: Tensor, x_PI: Tensor, gone: list[int]) -> tuple[list[int], list[float]]:
    """Again and again the weight whose removal, with least squares on the rest, costs least."""
    gone, costs = list(gone), [0.0] * len(gone)
    everything = set(range(len(weight_I)))
    now = error(weight_I, slow_on_support(weight_I, x_PI, sorted(everything - set(gone))), x_PI)
    while len(gone) < len(weight_I):
        tried = {}
        for place in everything - set(gone):
            kept = sorted(everything - set(gone) - {place})
            tried[place] = error(weight_I, slow_on_support(weight_I, x_PI, kept), x_PI)
        best = min(tried, key=tried.__getitem__)
        gone.append(best)
        costs.append(tried[best] - now)
        now = tried[best]
    return gone, costs


@pytest.mark.parametrize("largest", [2**23, 1])
def test_the_whole_order_is_that_of_a_slow_loop(largest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimal_brain, "_LARGEST", largest)
    weight, x, gram = problem(3, 6)
    gone = torch.zeros(3, 6, dtype=torch.bool)
    gone[1, 2] = gone[1, 5] = gone[2, 0] = True
    order, cost = removal_order(weight, gram, gone_RI=gone)
    for row in range(3):
        by_hand, costs = slow_greedy(weight[row], x, gone[row].nonzero().view(-1).tolist())
        assert order[row].tolist() == by_hand
        assert cost[row].tolist() == pytest.approx(costs, rel=1e-6, abs=1e-6)
    # The planted error: prices of the first step for all steps, which is not the optimal brain surgeon.
    at_once = (weight.square() / torch.linalg.inv(gram).diagonal()).argsort(dim=1)
    assert not torch.equal(at_once[0], order[0])


def test_no_more_go_of_a_group_than_may() -> None:
    weight, _, gram = problem(5, 8)
    order, cost = removal_order(weight, gram, group=4, most=2)
    assert cost.isfinite().sum(1).tolist() == [4] * 5
    gone = first_of(order, torch.full((5,), 4))
    assert bool((gone.view(5, 2, 4).sum(2) == 2).all())
    assert bool((order.sort(dim=1).values == torch.arange(8)).all()), "every weight stands in the order once"


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(0, 9), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(0, 16))
def test_rows_give_in_the_order_of_their_next_cost(costs: list[list[float]], count: int) -> None:
    count = min(count, 4 * len(costs))
    taken = cheapest_first(torch.tensor(costs, dtype=torch.float64), count)
    by_hand = [0] * len(costs)
    for _ in range(count):
        open_ = [row for row in range(len(costs)) if by_hand[row] < 4]
        by_hand[min(open_, key=lambda row: (costs[row][by_hand[row]], row))] += 1
    assert taken.tolist() == by_hand


def slow_columns(weight_RI: Tensor, gram_II: Tensor, kept_RI: Tensor) -> Tensor:
    """The definition: for each column an inverse of H over the columns that are left, and no factor of anything."""
    weight_RI = weight_RI.clone()
    for column in range(weight_RI.shape[1]):
        inverse = torch.linalg.inv(gram_II[column:, column:])
        lost_R = weight_RI[:, column] * ~kept_RI[:, column] / inverse[0, 0]
        weight_RI[:, column:] -= lost_R.unsqueeze(1) * inverse[0]
    return weight_RI


def test_columns_are_made_good_by_those_to_come_whatever_the_blocks() -> None:
    weight, _, gram = problem(4, 10)
    kept = torch.rand(4, 10, generator=torch.Generator().manual_seed(1)) < 0.5
    by_hand = slow_columns(weight, gram, kept)
    for block, group in ((10, 10), (4, 2), (3, 3), (1, 1)):
        mask, found = prune_columns(
            weight, gram, lambda cost, first: kept[:, first : first + cost.shape[1]], group=group, block=block
        )
        assert torch.equal(mask, kept)
        assert torch.allclose(found, by_hand, atol=1e-9)
    # The planted error: the factor of H itself in the place of that of its inverse.
    factor = inverse_factor(gram)
    assert torch.allclose(factor.T @ factor @ gram, torch.eye(10).double(), atol=1e-8)
    wrong = torch.linalg.cholesky(gram, upper=True)
    assert not torch.allclose(wrong.T @ wrong @ gram, torch.eye(10).double(), atol=1e-2)


def test_the_cost_that_columns_are_chosen_by_is_that_of_removing_them() -> None:
    """One row, one column: the cost is the exact one of the surgeon over this column and those to come."""
    weight, _, gram = problem(1, 6)
    seen: list[Tensor] = []

    def choose(cost: Tensor, first: int) -> Tensor:
        seen.append(cost)
        return torch.ones_like(cost, dtype=torch.bool)

    prune_columns(weight, gram, choose, group=6, block=6)
    for column in range(6):
        exact = weight[0, column] ** 2 / torch.linalg.inv(gram[column:, column:])[0, 0]
        assert torch.allclose(seen[0][0, column], exact)


def best_of(score: Tensor, count: int) -> Tensor:
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(descending=True)[:count]] = True
    return mask.view(score.shape)


def supports(weight: Tensor, gram: Tensor, count: int) -> dict[str, Tensor]:
    """The support that each way finds, of one row."""
    norm = gram.diagonal().sqrt()
    order, _ = removal_order(weight, gram)
    inputs = weight.shape[1]
    scaled = weight * norm, gram / norm / norm.unsqueeze(1)
    return {
        "magnitude": best_of(weight.abs(), count),
        "norms": best_of(weight.abs() * norm, count),
        "columns": prune_columns(weight, gram, lambda cost, _: best_of(cost, count), group=inputs, block=inputs)[0],
        "surgeon": ~first_of(order, torch.tensor([inputs - count])),
        "alternating": alternate(*scaled, lambda size: best_of(size, count), rho=0.1, most=300),
    }


def test_no_way_beats_enumeration_and_the_better_ones_come_near() -> None:
    sums: dict[str, float] = {}
    for seed in range(10):
        weight, x, gram = problem(1, 9, seed)
        for count in (3, 5):
            best = optimum(weight[0], x, count)
            sums["best"] = sums.get("best", 0.0) + best
            for name, kept in supports(weight, gram, count).items():
                assert int(kept.sum()) == count, name
                reached = error(weight, on_support(weight, gram, kept), x)
                assert reached >= best * (1 - 1e-9), name
                sums[name] = sums.get(name, 0.0) + reached
    ratio = {name: found / sums["best"] for name, found in sums.items()}
    assert ratio["alternating"] < 1.04, ratio
    assert ratio["surgeon"] < 1.1, ratio
    assert ratio["columns"] < ratio["magnitude"], ratio
    assert ratio["alternating"] < ratio["columns"], ratio


def test_a_support_that_has_not_moved_yet_has_not_come_to_rest() -> None:
    """The planted error: to end as soon as the support is the same twice, as released code does."""
    early = late = 0.0
    for seed in range(10):
        weight, x, gram = problem(1, 9, seed)
        for agreement in (torch.inf, 0.01):
            kept = alternate(weight, gram, lambda size: best_of(size, 4), rho=0.1, most=300, agreement=agreement)
            reached = error(weight, on_support(weight, gram, kept), x)
            early, late = (early + reached, late) if agreement > 1 else (early, late + reached)
    assert late < 0.95 * early


def test_conjugate_gradients_reach_least_squares() -> None:
    weight, x, gram = problem(4, 8)
    kept = torch.rand(4, 8, generator=torch.Generator().manual_seed(1)) < 0.5
    exact = on_support(weight, gram, kept)
    found = conjugate_gradients(weight, gram, kept, steps=100, tolerance=1e-12)
    assert torch.allclose(found, exact, atol=1e-6)
    few = conjugate_gradients(weight, gram, kept, steps=2, tolerance=1e-12)
    assert error(weight, exact, x) <= error(weight, few, x) <= error(weight, weight * kept, x)
    # The planted error: gradients that leave the support.
    assert not torch.allclose(conjugate_gradients(weight, gram, torch.ones_like(kept), steps=100, tolerance=0), exact)
