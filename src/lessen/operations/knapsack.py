"""Widths by a knapsack: of all that fit a budget, those at which what is removed mattered least.

What a layer costs depends on the widths on both of its sides, so the costs of widths do not simply add up. Around one
network they nearly do: the table says how the cost of the whole changes when one width alone does, and the best choice
by that table (`functional.knapsack`) is then looked at as a whole. Where the whole costs something else than the table
said, the budget is moved by as much and the choice made again.

Related: Shen et al., Structural pruning via latency-saliency knapsack (HALP), NeurIPS 2022, arXiv:2210.10811, which
adds up a table of single layers; Frantar & Alistarh, SPDY, ICML 2022, arXiv:2201.13096.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge

from lessen.core import settings
from lessen.core.errors import PlanError
from lessen.functional.knapsack import knapsack

Widths = Mapping[str, int]
"""How many indices each group keeps."""

Cost = Callable[[Sequence[Widths]], list[float]]
"""What whole networks of these widths cost, each as a share of the unpruned one."""


@runtime_checkable
class Budgeted(Protocol):
    """An allocation that looks at what widths cost, not at a share alone."""

    def within(self, problem: Problem) -> Allocated:
        """The widths that keep the cost within the target."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is to be allocated.

    Args:
        losses: For each group what is lost when it keeps 0, 1, 2 ... indices; falls to 0.
        options: For each group the widths it may have, rising; the last is its size.
        cost: What networks cost; may be measured, so it is asked for many at once.
        target: The share of the whole cost that may stay.
        start: Widths within the target, to do better than.
        alike: A key for a group among some widths; groups with the same key cost the same at the same width.
    """

    losses: Mapping[str, Sequence[float]]
    options: Mapping[str, Sequence[int]]
    cost: Cost
    target: float
    start: Widths
    alike: Callable[[Widths, str], Hashable] = lambda widths, name: name

    def loss(self, widths: Widths) -> float:
        """What is lost at these widths."""
        return sum(self.losses[name][width] for name, width in widths.items())


@dataclass(frozen=True, kw_only=True)
class Allocated:
    """What came of it.

    Args:
        widths: How many indices each group keeps; costs no more than the target.
        cost: What they cost.
        loss: What is lost.
        tables: For the first of each kind of group: width -> cost of the whole when it alone has this width.
        tried: Each choice that was looked at: (what the table said it costs, what it costs).
    """

    widths: dict[str, int]
    cost: float
    loss: float
    tables: dict[str, dict[int, float]]
    tried: list[tuple[float, float]]


@settings
class Knapsack:
    """Of all widths within the target, those that lose least by the score: the multiple-choice knapsack.

    Better than one share for all where groups differ in what they cost or in what they are worth. It needs a target
    that is a cost: `parameters`, `multiply_adds` or `time`.

    Args:
        widths: At how many widths of each group the cost is looked at; between them it is a broken line.
        passes: How many times the table is made anew, around the best choice so far.
        tries: How many choices are looked at as a whole with one table.
    """

    widths: Annotated[int, Ge(2)] = 5
    passes: Annotated[int, Ge(1)] = 1
    tries: Annotated[int, Ge(1)] = 4

    def within(self, problem: Problem) -> Allocated:
        """The widths that lose least, as far as the tables tell; never more than the start loses.

        Raises:
            PlanError: the start costs more than the target.
        """
        return allocate(problem, widths=self.widths, passes=self.passes, tries=self.tries)


def allocate(problem: Problem, *, widths: int, passes: int, tries: int) -> Allocated:
    """As `Knapsack`."""
    best, cost = dict(problem.start), problem.cost([problem.start])[0]
    if cost > problem.target:
        raise PlanError(f"The widths to start from cost {cost:.4g} of the whole, more than {problem.target:.4g}.")
    tables: dict[str, dict[int, float]] = {}
    tried: list[tuple[float, float]] = []
    for _ in range(passes):
        centre, base = dict(best), cost
        measured = _tables(problem, centre, base, widths)
        tables = tables or {name: table for name, table in measured.items() if name in _firsts(problem, centre)}
        budget, reach = problem.target - base, 1.0
        for _ in range(tries):
            chosen, said = _choose(problem, measured, centre, budget, reach)
            found = problem.cost([chosen])[0]
            tried.append((said, found))
            if found <= problem.target and problem.loss(chosen) < problem.loss(best):
                best, cost = chosen, found
            budget -= found - problem.target
            if found > problem.target:  # the table holds near its centre: stay nearer
                reach /= 2
                budget = max(budget, 0.0)
        if best == centre:
            break
    return Allocated(widths=best, cost=cost, loss=problem.loss(best), tables=tables, tried=tried)


def _firsts(problem: Problem, centre: Widths) -> dict[str, Hashable]:
    """The first group of each kind."""
    firsts: dict[Hashable, str] = {}
    for name in problem.options:
        firsts.setdefault(problem.alike(centre, name), name)
    return {name: key for key, name in firsts.items()}


def _tables(problem: Problem, centre: Widths, base: float, count: int) -> dict[str, dict[int, float]]:
    """For each group: width -> cost of the whole when it alone has this width and the others those of the centre."""
    firsts = _firsts(problem, centre)
    asked = [
        (name, width) for name in firsts for width in _spread(problem.options[name], count) if width != centre[name]
    ]
    # The centre once more: a clock is to be believed within one run only.
    again, *found = problem.cost([centre, *({**centre, name: width} for name, width in asked)])
    tables = {name: {centre[name]: base} for name in firsts}
    for (name, width), cost in zip(asked, found, strict=True):
        tables[name][width] = base + cost - again
    by_key = {key: tables[name] for name, key in firsts.items()}
    return {name: dict(sorted(by_key[problem.alike(centre, name)].items())) for name in problem.options}


def _spread(options: Sequence[int], count: int) -> list[int]:
    """Some of the options, evenly, with both ends."""
    at = np.linspace(0, len(options) - 1, min(count, len(options))).round().astype(int)
    return [options[i] for i in dict.fromkeys(at.tolist())]


def _choose(
    problem: Problem, tables: Mapping[str, Mapping[int, float]], centre: Widths, budget: float, reach: float
) -> tuple[dict[str, int], float]:
    """The best widths by the tables, and what they cost by these.

    Args:
        problem: What may be chosen.
        tables: Costs by width.
        centre: The widths around which the tables were made.
        budget: How much more than the centre the choice may cost.
        reach: How far from the centre it may be, as a share of the size of each group.
    """
    options = {
        name: [width for width in widths if abs(width - centre[name]) <= reach * widths[-1]]
        for name, widths in problem.options.items()
    }
    base = [tables[name][centre[name]] for name in options]
    losses = [[problem.losses[name][width] for width in widths] for name, widths in options.items()]
    costs = [
        (np.interp(widths, list(tables[name]), list(tables[name].values())) - here).tolist()
        for (name, widths), here in zip(options.items(), base, strict=True)
    ]
    least = sum(min(cost) for cost in costs)
    chosen = knapsack(losses, costs, max(budget, least), gap=1e-4)
    said = base[0] + sum(cost[k] for cost, k in zip(costs, chosen, strict=True))
    return {name: widths[k] for (name, widths), k in zip(options.items(), chosen, strict=True)}, said


def options_for(size: int, *, least: int, step: int, most: int = 64) -> list[int]:
    """Widths in multiples of a step from a least width up to the whole size; so many at most, evenly.

    >>> options_for(20, least=3, step=8)
    [8, 16, 20]
    """
    multiples = [*range(step * -(-least // step), size, step)]
    return [*_spread(multiples, most - 1), size] if multiples else [size]


def losses_for(scores: Sequence[float]) -> list[float]:
    """What is lost when 0, 1, 2 ... of the best stay: the sum of the scores that go.

    >>> losses_for([1.0, 3.0, 2.0])
    [6.0, 3.0, 1.0, 0.0]
    """
    return [*itertools.accumulate(sorted(scores), initial=0.0)][::-1]
