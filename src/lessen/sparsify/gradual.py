"""Gradual magnitude pruning: while a network learns, more and more of its smallest weights are removed.

Zhu & Gupta, To prune, or not to prune, ICLR 2018 workshop, arXiv:1710.01878.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.ranges import AnyShare, Count
from lessen.core.settings import settings
from lessen.core.where import Where
from lessen.functional.shapes import wide
from lessen.operations.parts.allocation import Allocation, Uniform, top
from lessen.operations.parts.scores import Magnitude, Score
from lessen.sparsify.contract import MaskMover, Sparsifier, some_weights
from lessen.surgery.forms.registering import stored


def cubic(keep: float, along: float) -> float:
    """The share of weights kept on the way from all to `keep`: many are removed at first, few at the end.

    >>> [cubic(0.2, along) for along in (0.0, 0.5, 1.0)]
    [1.0, 0.3, 0.2]
    """
    return round(keep + (1 - keep) * (1 - along) ** 3, 12)


def updates_due(progress: float, *, begin: float, end: float, updates: int) -> int:
    """How many of the updates between two shares of a stage are due at a progress.

    >>> [updates_due(p, begin=0.2, end=0.6, updates=4) for p in (0.1, 0.3, 0.31, 0.6, 1.0)]
    [0, 1, 1, 4, 4]
    """
    if progress >= end:
        return updates
    return max(0, int((progress - begin) / (end - begin) * updates + 1e-9))


def counts_of(allocation: Allocation, scores: dict[str, Tensor], keep: float) -> dict[str, int]:
    """How many each layer keeps; at least one, so that a layer never vanishes in the middle of a training."""
    return {name: max(1, count) for name, count in allocation.counts(scores, keep).items()}


@settings
class Gradual:
    """Prune in many small steps while the network learns, along a cubic curve. Removed weights stay removed.

    Args:
        keep: The share of weights that stays in the end.
        begin: The progress of the stage at which it begins.
        end: The progress at which the last weight is removed; the remaining weights are trained after that. It should
            end well before the learning rate does.
        updates: Number of pruning steps.
        score: The score of a weight; one that needs no gradient.
        allocation: How the share is divided over the layers.
        where: Which modules; None for all that have weights to prune.
        exclude: Which of these to leave alone.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.2
    begin: AnyShare = 0.0
    end: AnyShare = 0.7
    updates: Count = 50
    score: Score = Magnitude()
    allocation: Allocation = Uniform()
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / sparse training",
        paper="arXiv:1710.01878",
        says="Small weights are removed a few at a time, and the network adapts before more are removed.",
        costs="One sort of the weights per update, one byte per weight. The file and its time are as with "
        "PruneWeights.",
        fails_when="It ends when the learning rate is already small: the network can then no longer adapt.",
        differs="Updates are counted over the stage, not in steps. A layer keeps at least one weight.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin >= self.end:
            raise ValueError(f"it ends at {self.end} before it begins at {self.begin}")
        if self.score.needs_gradient:
            raise ValueError(f"score: {type(self.score).__name__} needs gradients; give one that does not")
        return self

    def check(self, model: nn.Module, /) -> None:
        some_weights(self, model)

    def start(self, model: nn.Module, /) -> Sparsifier:
        return _Gradually(self, model)


class _Gradually(MaskMover):
    """`Gradual` on one network."""

    done: Tensor

    def __init__(self, settings: Gradual, model: nn.Module) -> None:
        super().__init__(model, some_weights(settings, model))
        self.settings = settings
        self.register_buffer("done", torch.tensor(0))

    def settled(self, progress: float) -> bool:
        return progress >= self.settings.end

    def after_step(self, progress: float, rate: float) -> None:
        to = self.settings
        due = updates_due(progress, begin=to.begin, end=to.end, updates=to.updates)
        if due <= int(self.done):
            return
        self.done.fill_(due)
        with torch.no_grad():
            scores = {name: self._score(name) for name in self.weights}
            counts = counts_of(to.allocation, scores, cubic(to.keep, due / to.updates))
            for name, score in scores.items():
                self.move(name, top(score, counts[name]))

    def _score(self, name: str) -> Tensor:
        score = self.settings.score
        found = score.finish(score.shares(wide(stored(*self.weights[name])), None))
        return found.masked_fill(~self.kept(name), -math.inf)
