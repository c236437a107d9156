"""A search among widths: networks of some widths are judged, and what was judged says what to judge next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lessen.operations.search.contract import Allocated, Problem, Widths
from lessen.operations.search.model import CostModel

_Key = tuple[tuple[str, int], ...]


def _key(widths: Widths) -> _Key:
    return tuple(sorted(widths.items()))


class Judged:
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


def searched(model: CostModel, judge: Judged, candidates: int, starts: Sequence[dict[str, int]]) -> Allocated:
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
                child, _ = model.losing(learned(judge.seen, problem, drawn)).best(problem.target / of_late)
                off.setdefault(_key(child), of_late)
            if not learns or _key(child) in judge.seen:
                parents = judge.best(_PARENTS)
                parent = parents[drawn.integers(len(parents))]
                child = changed(model, parent, problem.target / off[_key(parent)], drawn)
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


def learned(seen: Mapping[_Key, float], problem: Problem, drawn: np.random.Generator) -> dict[str, list[float]]:
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


def changed(model: CostModel, widths: Widths, target: float, drawn: np.random.Generator) -> dict[str, int]:
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
