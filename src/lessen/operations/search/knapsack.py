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

import copy
import itertools
import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge

from lessen.core import settings
from lessen.core.errors import PlanError
from lessen.functional.knapsack import Choices

Widths = Mapping[str, int]
"""How many indices each group keeps."""

Cost = Callable[[Sequence[Widths]], list[float]]
"""What whole networks of these widths cost, each as a share of the unpruned one."""


@runtime_checkable
class Budgeted(Protocol):
    """An allocation that looks at what widths cost, not at a share alone."""

    @property
    def normalise(self) -> bool:
        """Whether the scores of each group are divided by their mean, comparable or not."""

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
        counted: What a network of some widths costs by counting, in any unit; exact and quick.
        alike: A key for a group among some widths; groups with the same key cost the same at the same width.
        judge: What the network of some widths loses as a whole; None where that cannot be said.
        others: Further allocations, by the share of indices that stays; a search begins with what they give as well.
        seed: For what is drawn.
    """

    losses: Mapping[str, Sequence[float]]
    options: Mapping[str, Sequence[int]]
    cost: Cost
    target: float
    start: Widths
    counted: Callable[[Widths], float]
    alike: Callable[[Widths, str], Hashable] = lambda widths, name: name
    judge: Callable[[Widths], float] | None = None
    others: Sequence[Callable[[float], Widths]] = ()
    seed: int = 0

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
        tried: Each choice that was looked at: (what the model said it costs, what it costs).
        judged: What the network of each choice loses that a search found better than all before, within the target or
            not; then what that of these widths does.
    """

    widths: dict[str, int]
    cost: float
    loss: float
    tables: dict[str, dict[int, float]]
    tried: list[tuple[float, float]]
    judged: list[float] = field(default_factory=list)


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
    model = _Model(problem, best, cost, widths)
    found = Allocated(widths=best, cost=cost, loss=problem.loss(best), tables=model.shown, tried=[])
    found, target = _met(model, tries, found)
    if candidates and problem.judge is not None:
        judge = _Judge(problem.judge)
        means = {name: max(row[0] / len(row), 1e-12) for name, row in problem.losses.items()}
        even, _ = model.losing(
            {name: [loss / means[name] for loss in row] for name, row in problem.losses.items()}
        ).best(target)
        starts = [found.widths, dict(problem.start), even, *(_filled(model, other, target) for other in problem.others)]
        found = replace(_searched(model, judge, candidates, starts), tables=model.shown, tried=found.tried)
        found = replace(found, loss=problem.loss(found.widths), judged=[*judge.better, judge(found.widths)])
        if not math.isfinite(found.judged[-1]):
            raise PlanError(
                f"None of {len(judge.seen)} pruned networks within the target has a finite loss on the calibration "
                "examples. Look for NaN in them and in the network, or give Knapsack(candidates=0)."
            )
    return found


def _filled(model: _Model, allocation: Callable[[float], Widths], target: float) -> dict[str, int]:
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


def _met(model: _Model, tries: int, found: Allocated) -> tuple[Allocated, float]:
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


_GAP = 1e-4
"""How far above the least loss a knapsack may end, as a share of what is at stake."""

_Key = tuple[tuple[str, int], ...]


def _key(widths: Widths) -> _Key:
    return tuple(sorted(widths.items()))


class _Judge:
    """What networks of some widths lose, each looked at once; remembers what was better than all before."""

    def __init__(self, judge: Callable[[Widths], float]) -> None:
        self.judge = judge
        self.seen: dict[_Key, float] = {}
        self.better: list[float] = []

    def __call__(self, widths: Widths) -> float:
        key = _key(widths)
        if key not in self.seen:
            self.seen[key] = found = self.judge(widths)
            if not self.better or found < self.better[-1]:
                self.better.append(found)
        return self.seen[key]

    def best(self, count: int) -> list[dict[str, int]]:
        """So many of those that lose least, the best first."""
        return [dict(key) for key in sorted(self.seen, key=self.seen.__getitem__)[:count]]


_ROUNDS, _PARENTS, _LOOKED_AT, _IN_VAIN = 10, 8, 6, 20
"""Of a search: how often costs are looked at, how many of the best are changed, how many are looked at, and how often
in a row a choice may be one that was seen before a round ends."""


def _searched(model: _Model, judge: _Judge, candidates: int, starts: Sequence[dict[str, int]]) -> Allocated:
    """The choice that is judged best of those whose cost, looked at, is within the problem's target.

    What the model says of a choice is corrected by what was seen of the choice that it was made from, or of the last
    that were looked at.

    Args:
        model: What costs what, as far as is known.
        judge: What networks lose.
        candidates: How many choices are judged.
        starts: Choices to begin with; the first two are within the target.
    """
    problem, drawn = model.problem, np.random.default_rng(model.problem.seed)
    known: dict[_Key, float] = {}
    off: dict[_Key, float] = {}

    def look(choices: Sequence[dict[str, int]]) -> float:
        for widths, cost in zip(choices, problem.cost(choices), strict=True):
            known[_key(widths)], off[_key(widths)] = cost, cost / model(widths)
        return float(np.median([off[_key(widths)] for widths in choices]))

    for widths in starts:
        judge(widths)
    of_late = look(starts)
    for number in range(_ROUNDS):
        in_vain = 0  # where there are few choices, most have been seen
        while len(judge.seen) < candidates * (number + 1) / _ROUNDS and in_vain < _IN_VAIN:
            before = len(judge.seen)
            learns = number > 1 and any(map(math.isfinite, judge.seen.values()))
            if learns:
                child, _ = model.losing(_learned(judge.seen, problem, drawn)).best(problem.target / of_late)
                off.setdefault(_key(child), of_late)
            if not learns or _key(child) in judge.seen:
                parents = judge.best(_PARENTS)
                parent = parents[drawn.integers(len(parents))]
                child = _changed(model, parent, problem.target / off[_key(parent)], drawn)
                off.setdefault(_key(child), off[_key(parent)])
            judge(child)
            in_vain = 0 if len(judge.seen) > before else in_vain + 1
        fresh = [widths for widths in judge.best(len(judge.seen)) if _key(widths) not in known]
        if fresh:
            of_late = look(fresh[:_LOOKED_AT])
    within = [dict(key) for key, cost in known.items() if cost <= problem.target] or [starts[0]]
    within.sort(key=lambda widths: (judge(widths), problem.loss(widths)))
    # Of many that were timed some only seemed to fit, so the best are looked at once more.
    again: list[tuple[float, dict[str, int]]] = []
    for at in range(0, len(within), _PARENTS):
        few = within[at : at + _PARENTS]
        again += zip(problem.cost(few), few, strict=True)
        if any(cost <= problem.target for cost, _ in again):
            break
    cost, best = next((each for each in again if each[0] <= problem.target), min(again, key=lambda each: each[0]))
    return Allocated(widths=best, cost=cost, loss=problem.loss(best), tables={}, tried=[])


def _learned(seen: Mapping[_Key, float], problem: Problem, drawn: np.random.Generator) -> dict[str, list[float]]:
    """What groups lose when they keep 0, 1, 2 ... indices, as far as the losses of whole networks tell.

    Each group is said to add a / width - b * log(width) to the loss, with a and b not below zero, fitted to what was
    judged, what lost least counting most, under weights drawn again (the Bayesian bootstrap): where little is known, it
    differs from time to time.
    """
    from scipy.optimize import nnls

    sizes = {name: widths[-1] for name, widths in problem.options.items()}

    def bends(widths: Any, size: int) -> list[Any]:
        share = np.maximum(widths, 0.5) / size
        return [1 / share, -np.log(share)]

    seen = {key: loss for key, loss in seen.items() if math.isfinite(loss)}
    told = np.array(list(seen.values()))
    columns = [
        column
        for number, name in enumerate(sorted(sizes))
        for column in bends(np.array([key[number][1] for key in seen]), sizes[name])
    ]
    scale = np.array([max(float(np.std(column)), 1e-9) for column in columns])
    known = np.column_stack([*(column / wide for column, wide in zip(columns, scale, strict=True)), np.ones(len(told))])
    trust = np.sqrt(drawn.exponential(size=len(told)) * np.exp((told.min() - told) / max(float(told.std()), 1e-12)))
    held = np.eye(known.shape[1]) * 0.05 * np.linalg.norm(trust)
    held[-1, -1] = 0
    fitted, _ = nnls(np.vstack([known * trust[:, None], held]), np.append(told * trust, np.zeros(len(held))))
    found = {}
    for number, name in enumerate(sorted(sizes)):
        parts = bends(np.arange(sizes[name] + 1), sizes[name])
        shares = fitted[2 * number : 2 * number + 2] / scale[2 * number : 2 * number + 2]
        found[name] = (shares[0] * parts[0] + shares[1] * parts[1]).tolist()
    return found


def _changed(model: _Model, widths: Widths, target: float, drawn: np.random.Generator) -> dict[str, int]:
    """Widths of which one or two are changed, and the others made less or more until the target is met."""
    options = model.problem.options
    names = list(options)
    at = {name: options[name].index(width) for name, width in widths.items()}

    def made() -> dict[str, int]:
        return {name: options[name][at[name]] for name in names}

    moved = drawn.permutation(names)[: drawn.integers(1, 3)].tolist()
    for name in moved:
        reach = max(1, len(options[name]) // 4)
        at[name] = int(np.clip(at[name] + drawn.integers(-reach, reach + 1), 0, len(options[name]) - 1))
    while model(made()) > target:
        can = [name for name in names if at[name] and name not in moved] or [name for name in names if at[name]]
        if not can:
            break
        at[drawn.choice(can)] -= 1
    growing = [name for name in names if name not in moved]
    while growing:
        name = drawn.choice(growing)
        at[name] += 1
        if at[name] == len(options[name]) or model(made()) > target:
            at[name] -= 1
            growing.remove(name)
    return made()


class _Model:
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

    def losing(self, losses: Mapping[str, Sequence[float]]) -> _Model:
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
