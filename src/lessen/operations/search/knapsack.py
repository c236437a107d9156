"""Widths by a knapsack: of all that fit a budget, those that remove the least important channels.

What a layer costs depends on the widths on both of its sides, so the costs of widths do not add up. A table says how
the cost of the whole changes when one width alone does. What happens when two do is known from counting: the
multiply-adds that both change, at the price of a multiply-add that the table shows. On this model a good choice is
found by knapsacks over single changes (`functional.knapsack`), each around the last, and then looked at as a whole.
Where the whole costs something else than the model said, the target is moved by as much and the choice made again.

What a choice loses is the sum of the scores that go, and that says too little where much of a group goes. So choices
can be searched: from what the knapsack found, from even widths, from one share for all and from one ranking of all,
widths are changed a little and filled up to the target, and what comes out is judged by what the pruned network itself
loses. From what was judged one learns what each group loses at each width, and a knapsack over that finds what is
judged next.

Shen et al., Structural pruning via latency-saliency knapsack (HALP), NeurIPS 2022, arXiv:2210.10811, which adds up a
table of single layers; a search with short training as its judge: Yang et al., NetAdapt, ECCV 2018, arXiv:1804.03230.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
from annotated_types import Ge

from lessen.core import settings
from lessen.core.errors import PlanError
from lessen.operations.search.contract import Allocated, Problem, Widths
from lessen.operations.search.model import CostModel
from lessen.operations.search.search import Judged, searched


@settings
class Knapsack:
    """Of all widths within the target, those with the least loss of score: the multiple-choice knapsack.

    Better than one share for all where groups differ in what they cost or in what they are worth. It needs a target
    that is a cost: `parameters`, `multiply_adds` or `time`.

    Args:
        widths: At how many widths of each group the cost is looked at; between them it is a broken line.
        tries: How many choices are looked at as a whole.
        normalise: Divide the scores of each group by their mean, even where they are changes of the loss, which can be
            compared as they are. Sums of such changes say too little of what is lost when nearly all of a group goes,
            so widths come out uneven; with this they are nearer to even.
        candidates: How many choices are judged by the loss of their networks on the calibration examples, after their
            layers were fitted again where the operation does so. With 0, sums of scores decide.
        steps: For how many batches each of them is trained before, on three quarters of the calibration batches and at
            that of three rates at which the first loses least, and judged on the others. When the target removed three
            quarters of the time, 96 batches of 64 from 4,096 examples ranked networks as a whole training does, and
            1,024 examples or 32 steps did not. With 0 only batch-norm statistics are taken again, which
            says little where all networks answer at random.
    """

    widths: Annotated[int, Ge(2)] = 5
    tries: Annotated[int, Ge(1)] = 5
    normalise: bool = False
    candidates: Annotated[int, Ge(0)] = 0
    steps: Annotated[int, Ge(0)] = 0

    def within(self, problem: Problem) -> Allocated:
        """The widths that lose least, as far as is known; never more than the start loses.

        Raises:
            PlanError: the start costs more than the target.
        """
        return allocate(problem, widths=self.widths, tries=self.tries, candidates=self.candidates)


def allocate(problem: Problem, *, widths: int, tries: int, candidates: int = 0) -> Allocated:
    """As `Knapsack`."""
    best, cost = dict(problem.start), problem.cost([problem.start])[0]
    if cost > problem.target:
        raise PlanError(f"The widths to start from cost {cost:.4g} of the whole, more than {problem.target:.4g}.")
    model = CostModel(problem, best, cost, widths)
    found = Allocated(widths=best, cost=cost, loss=problem.loss(best), tables=model.shown, tried=[])
    found, target = _met(model, tries, found)
    if candidates and problem.judge is not None:
        judge = Judged(problem.judge)
        means = {name: max(row[0] / len(row), 1e-12) for name, row in problem.losses.items()}
        even, _ = model.losing(
            {name: [loss / means[name] for loss in row] for name, row in problem.losses.items()}
        ).best(target)
        starts = [found.widths, dict(problem.start), even, *(_filled(model, other, target) for other in problem.others)]
        found = replace(searched(model, judge, candidates, starts), tables=model.shown, tried=found.tried)
        found = replace(found, loss=problem.loss(found.widths), judged=[*judge.better, judge(found.widths)])
        if not math.isfinite(found.judged[-1]):
            raise PlanError(
                f"None of {len(judge.seen)} pruned networks within the target has a finite loss on the calibration "
                "examples. Look for NaN in them and in the network, or give Knapsack(candidates=0)."
            )
    return found


def _filled(model: CostModel, allocation: Callable[[float], Widths], target: float) -> dict[str, int]:
    """What an allocation gives at the largest share that costs no more than the target, by the model."""
    widths: dict[str, int] = {}
    for share in np.linspace(1, 0, 101).tolist():
        given = allocation(share)
        widths = {name: _nearest(options, given[name]) for name, options in model.problem.options.items()}
        if model(widths) <= target:
            break
    return widths


def _nearest(options: Sequence[int], wanted: int) -> int:
    return min(options, key=lambda option: abs(option - wanted))


def _met(model: CostModel, tries: int, found: Allocated) -> tuple[Allocated, float]:
    """The choice that loses least of those tried whose cost, looked at, is within the target.

    Args:
        model: What costs what, as far as is known.
        tries: How many choices are looked at.
        found: A choice within the target, to do better than.

    Returns:
        The choice, and what to ask of the model for the problem's target.
    """
    problem, target = model.problem, model.problem.target
    for _ in range(tries):
        chosen, said = model.best(target)
        cost = problem.cost([chosen])[0]
        found.tried.append((said, cost))
        if cost <= problem.target and problem.loss(chosen) < found.loss:
            found = replace(found, widths=chosen, cost=cost, loss=problem.loss(chosen))
        if chosen == problem.start or abs(cost - problem.target) < 1e-3 * problem.target:
            break
        target *= problem.target / cost
    return found, target
