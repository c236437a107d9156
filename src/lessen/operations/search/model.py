"""A model of what networks of some widths cost, from a table around one of them and from counting."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from lessen.functional.knapsack import Choices
from lessen.operations.search.contract import Problem, Widths, spread

_GAP = 1e-4
"""How far above the least loss a knapsack may end, as a share of what is at stake."""


class CostModel:
    """What networks cost, from a table around one of them and from counting.

    cost(w) = base + sum over groups of table(w) + price * (counted(w) - what counting one width at a time adds up to)

    Args:
        problem: What is to be allocated.
        centre: The widths around which the table is made.
        base: What they cost.
        count: At how many widths of each group the cost is looked at.
    """

    def __init__(self, problem: Problem, centre: Widths, base: float, count: int) -> None:
        self.problem, self.centre, self.base = problem, dict(centre), base
        tables = _tables(problem, centre, base, count)
        firsts = _firsts(problem, centre)
        self.shown = {name: tables[name] for name in firsts}
        self.counted_base = problem.counted(centre)
        self.single = {
            name: {width: problem.counted({**centre, name: width}) - self.counted_base for width in options}
            for name, options in problem.options.items()
        }
        self.table = {
            name: dict(
                zip(
                    options,
                    (np.interp(options, list(tables[name]), list(tables[name].values())) - base).tolist(),
                    strict=True,
                )
            )
            for name, options in problem.options.items()
        }
        pairs = [
            (self.single[name][width], self.table[name][width]) for name in firsts for width in problem.options[name]
        ]
        squares = sum(counted**2 for counted, _ in pairs)
        self.price = max(0.0, sum(a * b for a, b in pairs) / squares) if squares else 0.0

    def __call__(self, widths: Widths) -> float:
        """The cost of a network, never asked of it."""
        together = self.problem.counted(widths) - self.counted_base
        apart = sum(self.single[name][width] for name, width in widths.items())
        alone = sum(self.table[name][width] for name, width in widths.items())
        return float(self.base + alone + self.price * (together - apart))

    def losing(self, losses: Mapping[str, Sequence[float]]) -> CostModel:
        """The same with other losses."""
        other = copy.copy(self)
        other.problem = replace(self.problem, losses=losses)
        return other

    def best(self, target: float) -> tuple[dict[str, int], float]:
        """The widths that lose least at no more than a cost by this model, and that cost; the cheapest if none do."""
        here, cost = dict(self.problem.start), self(self.problem.start)
        if cost > target:  # an earlier choice cost more than was said: begin from less
            here = {name: widths[0] for name, widths in self.problem.options.items()}
            cost = self(here)
        reach = 1.0
        while reach >= 1 / 64:
            for then in self._around(here, cost, target, reach):
                if (reached := self(then)) <= target and self.problem.loss(then) < self.problem.loss(here):
                    here, cost = then, reached
                    break
            else:
                reach /= 2
        return here, cost

    def _around(self, here: Widths, cost: float, target: float, reach: float) -> Iterator[dict[str, int]]:
        """Widths that lose little, by what single changes around some widths cost; the least loss first.

        Single changes can say too much or too little of several at once, so they may add up to more or less than the
        target.

        Args:
            here: The widths to start from.
            cost: What they cost by the model.
            target: What may be spent.
            reach: How far from these widths, as a share of the size of each group.
        """
        near = {
            name: [width for width in widths if abs(width - here[name]) <= reach * widths[-1]]
            for name, widths in self.problem.options.items()
        }
        costs = [[self({**here, name: width}) - cost for width in widths] for name, widths in near.items()]
        losses = [[self.problem.losses[name][width] for width in widths] for name, widths in near.items()]
        least, choices, lost = sum(min(row) for row in costs), Choices(losses, costs), self.problem.loss(here)
        for more in (1 / 8, 1 / 16, 1 / 32, 0, -1 / 32, -1 / 16, -1 / 8, -1 / 4):
            found = choices.within(max((1 + more) * target - cost, least), gap=_GAP)
            then = {name: widths[k] for (name, widths), k in zip(near.items(), found, strict=True)}
            yield then
            if self.problem.loss(then) - _GAP * choices.stake >= lost:
                return  # with less to spend no choice loses less than here


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
        (name, width) for name in firsts for width in spread(problem.options[name], count) if width != centre[name]
    ]
    # The centre once more: a clock is to be believed within one run only.
    again, *found = problem.cost([centre, *({**centre, name: width} for name, width in asked)])
    tables = {name: {centre[name]: base} for name in firsts}
    for (name, width), cost in zip(asked, found, strict=True):
        tables[name][width] = base + cost - again
    by_key = {key: tables[name] for name, key in firsts.items()}
    return {name: dict(sorted(by_key[problem.alike(centre, name)].items())) for name in problem.options}
