"""Movement pruning: training decides which weights stay; those that it moves towards zero are removed.

Sanh, Wolf & Rush, Movement pruning, NeurIPS 2020, arXiv:2005.07683.

Every weight w has a score s, at first 0. Forward, a weight counts if its score is among the highest; backward, the
gradient of the loss L reaches the score as if the mask were the score (straight through): with w' what is multiplied,

    dL/ds = dL/dw' * w,    so    s = - rate * sum over steps of dL/dw' * w

A masked weight keeps its value and its score is still updated, so it may come back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.ranges import AnyShare, Count
from lessen.core.settings import settings
from lessen.core.where import Where
from lessen.operations.parts.allocation import Allocation, Uniform, top
from lessen.optim.optimizer import SGD, Optimizer
from lessen.sparsify.contract import MaskMover, Sparsifier, some_weights
from lessen.sparsify.gradual import counts_of, cubic, updates_due
from lessen.surgery.forms.registering import stored


@settings
class Movement:
    """Keep the weights that training moves away from zero, not those that are large. For fine-tuning.

    Args:
        keep: The share of weights that stays in the end.
        begin: The progress of the stage at which pruning begins; until then scores are only gathered.
        end: The progress at which the masks become fixed; after that the remaining weights are trained.
        updates: Number of times the masks are recomputed between `begin` and `end`.
        optimizer: How the scores are updated.
        allocation: How the share is divided over the layers.
        where: Which modules; None for all that have weights to prune.
        exclude: Which of these to leave alone.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.1
    begin: AnyShare = 0.1
    end: AnyShare = 0.7
    updates: Count = 100
    optimizer: Optimizer = SGD(rate=1.0, momentum=0.0, nesterov=False, decay=0.0)
    allocation: Allocation = Uniform()
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / sparse training",
        paper="arXiv:2005.07683",
        says="Weights that training moves towards zero are removed, however large they are.",
        costs="A score and its gradient for each weight while training, and one sort per update. The file and its "
        "time are as with PruneWeights.",
        fails_when="The network is trained from scratch: how weights move says little while they are still random.",
        differs="Masks are updated a fixed number of times instead of at every step, and stay as they are from `end` "
        "on; the paper updates them until the end. Of equal scores the larger weight is kept.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin >= self.end:
            raise ValueError(f"it ends at {self.end} before it begins at {self.begin}")
        return self

    def check(self, model: nn.Module, /) -> None:
        some_weights(self, model)

    def start(self, model: nn.Module, /) -> Sparsifier:
        return _Moving(self, model)


class _Moving(MaskMover):
    """`Movement` on one network."""

    done: Tensor

    def __init__(self, settings: Movement, model: nn.Module) -> None:
        super().__init__(model, some_weights(settings, model))
        self.settings, self.optimizer = settings, settings.optimizer
        self.register_buffer("done", torch.tensor(0))
        self.scores = nn.ParameterList(torch.zeros_like(stored(*owner).detach()) for owner in self.weights.values())
        self._hooks = [
            mask.register_forward_hook(through(score))
            for name, score in zip(self.weights, self.scores, strict=True)
            for mask in self.masks(name)
        ]

    def settled(self, progress: float) -> bool:
        return progress >= self.settings.end

    def after_step(self, progress: float, rate: float) -> None:
        to = self.settings
        due = updates_due(progress, begin=to.begin, end=to.end, updates=to.updates)
        if due <= int(self.done):
            return
        self.done.fill_(due)
        with torch.no_grad():
            scores = {
                name: score.masked_fill(~self.before(name), -torch.inf)
                for name, score in zip(self.weights, self.scores, strict=True)
            }
            counts = counts_of(to.allocation, scores, cubic(to.keep, due / to.updates))
            for name, score in scores.items():
                self.move(name, top_of(score, stored(*self.weights[name]).abs(), counts[name]))

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        super().close()


def through(score: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
    """A hook on a mask that lets the gradient reach a score as if the mask were the score."""

    def hook(mask: nn.Module, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
        del mask
        return output + given[0].detach() * (score - score.detach()) if torch.is_grad_enabled() else None

    return hook


def top_of(score: Tensor, then: Tensor, count: int) -> Tensor:
    """A mask of the `count` highest scores; of equal ones those stay of which `then` is larger.

    >>> top_of(torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 2.0, 3.0]), 2)
    tensor([False,  True,  True])
    """
    order = then.flatten().sort(descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order.cpu()] = top(score.flatten()[order], count)
    return mask.view(score.shape)
