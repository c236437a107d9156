"""What each weight of a network is worth, by any score."""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.functional.shapes import wide
from lessen.operations.parts.allocation import Allocation
from lessen.operations.parts.gradients import gradients
from lessen.operations.parts.scores import Score
from lessen.operations.prune_weights.candidates import Weights
from lessen.surgery.forms.registering import kept_weights, stored


@runtime_checkable
class NetworkScore(Protocol):
    """A score that needs the whole network, not only a weight and its gradient."""

    def over(
        self, model: nn.Module, chosen: Weights, context: Context, *, keep: float, allocation: Allocation
    ) -> dict[str, Tensor]:
        """What each weight is worth, by the name of the parameter, in its shape.

        Args:
            model: The network; it is not changed.
            chosen: Which parameters.
            context: Data, a loss, a seed.
            keep: The share that will be kept, for scores that go there in rounds.
            allocation: How it will be divided.

        Raises:
            PlanError: the context lacks what is needed.
        """


def weight_scores(
    score: Score | NetworkScore,
    model: nn.Module,
    chosen: Weights,
    context: Context,
    *,
    keep: float,
    allocation: Allocation,
) -> dict[str, Tensor]:
    """The score of each weight; what is already pruned scores below everything."""
    if isinstance(score, NetworkScore):
        found = score.over(model, chosen, context, keep=keep, allocation=allocation)
    else:
        found = _of_each(score, model, chosen, context)
    return {name: without_pruned(value, *chosen[name]) for name, value in found.items()}


def without_pruned(score: Tensor, module: nn.Module, last: str) -> Tensor:
    """The score with what is already pruned below everything."""
    kept = kept_weights(module, last)
    return score if kept is None else score.masked_fill(~kept.to(score.device), -math.inf)


def _of_each(score: Score, model: nn.Module, chosen: Weights, context: Context) -> dict[str, Tensor]:
    weights = {name: wide(getattr(module, last).detach()) for name, (module, last) in chosen.items()}
    if not score.needs_gradient:
        return {name: score.finish(score.shares(weight, None)) for name, weight in weights.items()}
    count, scores = 0, {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for found in gradients(model, {name: stored(*owner) for name, owner in chosen.items()}, context):
        count += 1
        for name, gradient in found.items():
            scores[name] += score.finish(score.shares(weights[name], gradient))
    return {name: value / count for name, value in scores.items()}
