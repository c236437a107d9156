"""Controls for scores: what is left of a score when its masks are shuffled, and when there is no score at all.

Frankle et al., Pruning neural networks at initialization: why are we missing the mark?, ICLR 2021, arXiv:2009.08576;
Su et al., Sanity-checking pruning methods, NeurIPS 2020, arXiv:2009.11094.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lessen.core import Card, Context, settings
from lessen.core.seeds import generator
from lessen.operations.parts.allocation import Allocation
from lessen.operations.parts.scores import Magnitude, Score
from lessen.operations.prune_weights.candidates import Weights
from lessen.operations.prune_weights.scoring import NetworkScore, weight_scores
from lessen.surgery.forms.registering import kept_weights


@settings
class Shuffled:
    """The control for a score: each layer keeps as many weights as with that score, but they are drawn at random.

    If a network pruned this way is as good, the score only tells how many weights each layer needs.

    Args:
        score: The score that determines the number of weights of each layer.
    """

    score: Score | NetworkScore = Magnitude()

    card: ClassVar[Card] = Card(
        row="operations / control scores",
        paper="arXiv:2009.08576, arXiv:2009.11094",
        says="The scores of each layer are permuted at random, in the same way for the same seed.",
        costs="The cost of the score.",
        fails_when="It is taken for a method.",
    )

    def over(
        self, model: nn.Module, chosen: Weights, context: Context, *, keep: float, allocation: Allocation
    ) -> dict[str, Tensor]:
        """The scores of each layer in another order; what was pruned before stays at its place."""
        found = weight_scores(self.score, model, chosen, context, keep=keep, allocation=allocation)
        return {name: _shuffled(score, name, context.seed, *chosen[name]) for name, score in found.items()}


@settings
class Chance:
    """The control for all scores: each weight gets a random score."""

    card: ClassVar[Card] = Card(
        row="operations / control scores",
        paper="folklore",
        says="The weights that stay are drawn at random, in every layer or globally, as the allocation says.",
        costs="Nothing.",
        fails_when="It is taken for a method.",
    )

    def over(
        self, model: nn.Module, chosen: Weights, context: Context, *, keep: float, allocation: Allocation
    ) -> dict[str, Tensor]:
        """Uniform numbers in [0, 1), from the context's seed and the name of the weight."""
        return {
            name: torch.rand(getattr(*owner).shape, generator=generator(context.seed, "chance", name))
            for name, owner in chosen.items()
        }


def _shuffled(score: Tensor, name: str, seed: int, module: nn.Module, last: str) -> Tensor:
    kept = kept_weights(module, last)
    alive = torch.arange(score.numel()) if kept is None else kept.flatten().cpu().nonzero().view(-1)
    order = alive[torch.randperm(len(alive), generator=generator(seed, "shuffle", name))]
    flat = score.flatten().clone()
    flat[alive.to(flat.device)] = score.flatten()[order.to(flat.device)]
    return flat.view(score.shape)
