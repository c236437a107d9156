"""Scores and allocations against counting by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lessen.core.errors import SettingError
from lessen.operations.parts.allocation import Allocation, Global, Uniform, top
from lessen.operations.parts.scores import Magnitude, Score, Taylor


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.floats(0, 1))
def test_top_keeps_exactly_so_many_even_of_equals(values: list[int], keep: float) -> None:
    score = torch.tensor(values, dtype=torch.float32)
    count = round(keep * len(values))
    mask = top(score, count)
    assert int(mask.sum()) == count
    if 0 < count < len(values):
        assert score[mask].min() >= score[~mask].max()


def test_a_threshold_would_keep_too_many() -> None:
    """The planted error: comparing with a threshold, as much released code does, overshoots on equal scores."""
    score = torch.ones(10)
    assert int((score >= score.sort(descending=True).values[4]).sum()) != 5
    assert int(top(score, 5).sum()) == 5


def test_global_moves_the_share_to_where_scores_are_high() -> None:
    scores = {"weak": torch.full((4, 5), 0.1), "strong": torch.ones(10)}
    assert Global().counts(scores, 0.5) == {"weak": 5, "strong": 10}
    assert Uniform().counts(scores, 0.5) == {"weak": 10, "strong": 5}
    assert Global().counts({}, 0.5) == {}


def test_taylor_is_the_first_order_change_of_the_loss() -> None:
    weight = torch.tensor([2.0, -3.0], dtype=torch.float64, requires_grad=True)
    loss = (weight * torch.tensor([0.5, 4.0], dtype=torch.float64)).sum()
    (gradient,) = torch.autograd.grad(loss, weight)
    score = Taylor(joint=True)
    # A linear loss changes by exactly the share of the weight; a group's shares cancel before they are squared.
    assert torch.equal(score.finish(score.shares(weight, gradient)), torch.tensor([1.0, 144.0], dtype=torch.float64))
    assert score.finish(score.shares(weight, gradient).sum()) == 121.0
    each = Taylor()
    assert each.finish(each.shares(weight, gradient).sum()) == 13.0  # none cancels


def test_magnitude_is_the_power() -> None:
    assert torch.equal(Magnitude(power=2.0).shares(torch.tensor([-3.0, 2.0])), torch.tensor([9.0, 4.0]))
    with pytest.raises(SettingError, match="power"):
        Magnitude(power=0)


def test_they_keep_their_contracts() -> None:
    assert all(isinstance(score, Score) for score in (Magnitude(), Taylor()))
    assert all(isinstance(allocation, Allocation) for allocation in (Uniform(), Global()))
