"""One option for each item, at the least total loss within a budget: the multiple-choice knapsack, solved exactly.

Costs are real numbers and nothing is rounded into buckets, so an option may cost next to nothing, or nothing. Partial
choices are built item by item. Of these only those stay that no other beats in both cost and loss, and only while the
best that could still come of them (the linear relaxation of the items that remain) beats a choice already known.

Dudzinski & Walukiewicz, Exact methods for the knapsack problem and its generalizations, EJOR 28, 1987.

Shapes: I items, K options of an item, S partial choices.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lessen.core.errors import PlanError, ShapeError

Numbers = NDArray[np.float64]

_ROUNDING = 1e-9
"""Sums of costs may pass the budget by this share of the largest cost there is: that much is rounding."""


def knapsack(
    losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]], budget: float, *, gap: float = 0.0
) -> list[int]:
    """The option of each item at which the losses add up to least and the costs to no more than the budget.

    Of several such choices one with the least cost. Costs and losses may be negative; only differences within an item
    matter.

    Args:
        losses: For each item the loss of each of its options; I sequences of K numbers, K differs by item.
        costs: The same of costs.
        budget: What the chosen options may cost together.
        gap: How far the total loss may lie above the least there is, as a share of what is at stake (the sum over the
            items of the largest loss less the smallest); proven. At 0 it is the least. Many items whose losses all but
            follow their costs can take minutes at 0, and a moment at 0.001.

    Raises:
        ShapeError: an item has no option, or not as many losses as costs.
        PlanError: a number is not finite, or even the cheapest options cost more; the text says how much these cost.

    >>> knapsack([[0.0, 3.0], [0.0, 1.0]], [[5.0, 1.0], [5.0, 2.0]], 7.0)
    [0, 1]
    """
    return Choices(losses, costs).within(budget, gap=gap)


class Choices:
    """The items of a knapsack, prepared once and solved for several budgets.

    Args:
        losses: As for `knapsack`.
        costs: As for `knapsack`.

    Raises:
        ShapeError: an item has no option, or not as many losses as costs.
        PlanError: a number is not finite.

    >>> choices = Choices([[0.0, 3.0], [0.0, 1.0]], [[5.0, 1.0], [5.0, 2.0]])
    >>> choices.within(7.0), choices.within(10.0)
    ([0, 1], [0, 0])
    """

    def __init__(self, losses: Sequence[Sequence[float]], costs: Sequence[Sequence[float]]) -> None:
        items = [_item(loss, cost) for loss, cost in zip(losses, costs, strict=True)]
        self._least = sum(float(item.costs[0]) for item in items)
        self._slack = _ROUNDING * max((float(np.abs(item.costs).max()) for item in items), default=0.0)
        # Items that move most first: what is left then is small, and its bound is sharp.
        ranges = [float(np.ptp(item.losses)) for item in items]
        self._order = sorted(range(len(items)), key=lambda i: -ranges[i])
        self._items = [items[i] for i in self._order]
        steps = [step for i, item in enumerate(self._items) for step in _hull_steps(i, item)]
        steps.sort(key=lambda step: step[0])
        self._bounds = [_Relaxed(self._items, steps, i) for i in range(len(items) + 1)]
        self._stake = sum(ranges[i] for i in self._order)
        self._rounding = 1e-12 * max((float(np.abs(item.losses).sum()) for item in items), default=0.0)

    @property
    def stake(self) -> float:
        """The sum over the items of the largest loss less the smallest, of options that no other beats."""
        return self._stake

    def within(self, budget: float, *, gap: float = 0.0) -> list[int]:
        """As `knapsack`, for this budget.

        Raises:
            PlanError: the budget is not finite, or even the cheapest options cost more (the text says how much).
        """
        if not np.isfinite(budget):
            raise PlanError(f"A budget of {budget} was given; expected a finite number.")
        if self._least > budget + self._slack:
            raise PlanError(
                f"Nothing costs {budget:.6g} or less: the cheapest options cost {self._least:.6g} together."
            )
        found = _search(self._items, self._bounds, budget + self._slack, self._rounding - gap * self._stake)
        chosen = [0] * len(self._items)
        for i, item, option in zip(self._order, self._items, found, strict=True):
            chosen[i] = int(item.options[option])
        return chosen


@dataclass(frozen=True)
class _Item:
    """The options of an item that none of its others beats: costs rise and losses fall."""

    options: NDArray[np.intp]
    costs: Numbers
    losses: Numbers


def _item(loss: Sequence[float], cost: Sequence[float]) -> _Item:
    losses, costs = np.asarray(loss, np.float64), np.asarray(cost, np.float64)
    if losses.shape != costs.shape or losses.ndim != 1 or not losses.size:
        raise ShapeError(
            f"An item has losses {losses.shape} and costs {costs.shape}; expected as many, and at least one."
        )
    if not (np.isfinite(losses).all() and np.isfinite(costs).all()):
        raise PlanError("A loss or a cost is not a finite number. Check the scores and the measured times.")
    keep = _unbeaten(costs, losses)
    return _Item(keep, costs[keep], losses[keep])


def _unbeaten(costs: Numbers, losses: Numbers) -> NDArray[np.intp]:
    """The entries that no other beats in both, cheapest first; of equal ones the first."""
    order = np.lexsort((losses, costs))
    falling = losses[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(falling)[:-1]])
    kept: NDArray[np.intp] = order[falling < before]
    return kept


def _search(items: Sequence[_Item], bounds: Sequence[_Relaxed], budget: float, spare: float) -> list[int]:
    """The option of each item; partial choices that cannot end below the best known one plus `spare` are dropped."""
    known = bounds[0].rounded(budget)
    best = _lost(items, known)
    costs_S, losses_S = np.zeros(1), np.zeros(1)
    trail: list[tuple[NDArray[np.intp], NDArray[np.intp]]] = []
    for i, item in enumerate(items):
        costs = (costs_S[:, None] + item.costs).ravel()
        losses = (losses_S[:, None] + item.losses).ravel()
        left = budget - costs
        hope = losses + bounds[i + 1].least(left)
        live = np.flatnonzero(hope <= best + spare)  # what cannot be paid hopes for infinity
        if not live.size:
            return known
        live = live[_unbeaten(costs[live], losses[live])]
        parents, options = np.divmod(live, len(item.costs))
        trail.append((parents, options))
        costs_S, losses_S = costs[live], losses[live]
        # A choice is known from each partial one: complete the most hopeful.
        at = int(hope[live].argmin())
        rest = bounds[i + 1].rounded(budget - float(costs_S[at]))
        whole = float(losses_S[at]) + _lost(items[i + 1 :], rest)
        if whole < best:
            best, known = whole, [*_followed(trail, at), *rest]
    return _followed(trail, len(losses_S) - 1)  # losses fall with rising costs, so the last loses least


def _lost(items: Sequence[_Item], chosen: Sequence[int]) -> float:
    return sum(float(item.losses[k]) for item, k in zip(items, chosen, strict=True))


def _followed(trail: Sequence[tuple[NDArray[np.intp], NDArray[np.intp]]], at: int) -> list[int]:
    """The options that led to a partial choice."""
    chosen = []
    for parents, options in reversed(trail):
        chosen.append(int(options[at]))
        at = int(parents[at])
    return chosen[::-1]


_Step = tuple[float, float, float, int, int]
"""A step to the next option on a hull: (slope, cost, loss, item, option)."""


class _Relaxed:
    """The best that items could reach if an option could be taken in part: a bound, and a choice near it.

    On the lower convex hull of each item, steps to the next option are taken in the order of what they bring for their
    cost; the bound is a broken line over the budget.

    Args:
        items: All items.
        steps: The steps of their hulls, steepest first.
        first: The first of the items that count; those before it do not.
    """

    def __init__(self, items: Sequence[_Item], steps: Sequence[_Step], first: int) -> None:
        self.count, self.number = len(items) - first, first
        self.first = sum(float(item.costs[0]) for item in items[first:])
        self.steps = [step for step in steps if step[3] >= first]
        start = sum(float(item.losses[0]) for item in items[first:])
        self.at = np.concatenate([[self.first], self.first + np.cumsum([step[1] for step in self.steps])])
        self.loss = np.concatenate([[start], start + np.cumsum([step[2] for step in self.steps])])

    def least(self, budget_S: Numbers) -> Numbers:
        """No choice within these budgets loses less; infinity where there is none."""
        bound: Numbers = np.interp(budget_S, self.at, self.loss)
        return np.where(budget_S >= self.first - 1e-12 * max(1.0, abs(self.first)), bound, np.inf)

    def rounded(self, budget: float) -> list[int]:
        """A choice within the budget: every step of the hulls that still fits."""
        chosen, left = [0] * self.count, budget - self.first
        stopped: set[int] = set()
        for _, cost, _, item, option in self.steps:
            if item in stopped or cost > left:
                stopped.add(item)
                continue
            chosen[item - self.number], left = option, left - cost
        return chosen


def _hull_steps(number: int, item: _Item) -> list[_Step]:
    """Each step along the lower hull of an item, steepest first."""
    hull = [0]
    for k in range(1, len(item.costs)):
        while len(hull) > 1 and _slope(item, hull[-2], hull[-1]) >= _slope(item, hull[-1], k):
            hull.pop()
        hull.append(k)
    return [
        (_slope(item, a, b), float(item.costs[b] - item.costs[a]), float(item.losses[b] - item.losses[a]), number, b)
        for a, b in itertools.pairwise(hull)
    ]


def _slope(item: _Item, a: int, b: int) -> float:
    return float((item.losses[b] - item.losses[a]) / (item.costs[b] - item.costs[a]))
