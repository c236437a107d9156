"""What an allocation of widths is asked for, and what it answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

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


def options_for(size: int, *, least: int, step: int, most: int = 64) -> list[int]:
    """Widths in multiples of a step from a least width up to the whole size; so many at most, evenly.

    >>> options_for(20, least=3, step=8)
    [8, 16, 20]
    """
    multiples = [*range(step * -(-least // step), size, step)]
    return [*spread(multiples, most - 1), size] if multiples else [size]


def losses_for(scores: Sequence[float]) -> list[float]:
    """What is lost when 0, 1, 2 ... of the best stay: the sum of the scores that go.

    >>> losses_for([1.0, 3.0, 2.0])
    [6.0, 3.0, 1.0, 0.0]
    """
    return [*itertools.accumulate(sorted(scores), initial=0.0)][::-1]


def spread(options: Sequence[int], count: int) -> list[int]:
    """Some of the options, evenly, with both ends."""
    at = np.linspace(0, len(options) - 1, min(count, len(options))).round().astype(int)
    return [options[i] for i in dict.fromkeys(at.tolist())]
