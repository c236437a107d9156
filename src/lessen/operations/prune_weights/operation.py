"""Pruning of single weights: the ones that matter least become zero and stay zero.

Han et al., Learning both weights and connections for efficient neural networks, NeurIPS 2015, arXiv:1506.02626.

What is pruned is a parameter that only multiplies: the weight of linear and convolution layers, and the packed
projections of attention. Exactly the asked number of weights is kept; of equal scores the earlier one is.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator
from torch import nn

from lessen.core import Card, Context, Where, settings
from lessen.core.errors import PlanError
from lessen.operations.parts.allocation import Allocation, Uniform
from lessen.operations.parts.pattern import Anywhere, Pattern, pattern_mask
from lessen.operations.parts.scores import Magnitude, Score
from lessen.operations.prune_weights.candidates import check_share, fitting
from lessen.operations.prune_weights.plan import PrunedWeights
from lessen.operations.prune_weights.scoring import NetworkScore, weight_scores
from lessen.surgery.plain import plain


@settings
class PruneWeights:
    """Set the least important weights to zero permanently.

    Args:
        keep: The share of weights that stays.
        score: The score of a weight.
        allocation: How the share is divided over the layers: the same in each, or by score over all.
        pattern: Which sets of weights of a layer may be kept. `NM(n=2, m=4)` fixes the share itself; `keep` must agree.
        where: Which modules; None for all that have weights to prune.
        exclude: Which of these to leave alone.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    score: Score | NetworkScore = Magnitude()
    allocation: Allocation = Uniform()
    pattern: Pattern = Anywhere()
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / unstructured pruning",
        paper="arXiv:1506.02626; Taylor: arXiv:1906.10771; N:M: arXiv:2104.08378",
        says="The weights with the lowest scores are zero, and stay zero through any training that follows.",
        costs="No time is saved: dense kernels multiply by the zeros, in PyTorch, ONNX Runtime and OpenVINO alike. No "
        "bytes are saved either until the file is compressed. N:M is no exception: it is for GPUs. Training "
        "carries a mask of one byte per weight.",
        fails_when="Few weights are kept and no training follows. With Global() and very few weights kept, thin "
        "layers would become empty (an error, not a silent collapse).",
        differs="Exactly the requested number is kept. Comparing with a threshold, as much code does, keeps more or "
        "fewer when scores are equal.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_share(self.pattern, self.keep)
        return self

    @classmethod
    def neutral(cls) -> PruneWeights:
        return cls(keep=1.0)

    def plan(self, model: nn.Module, context: Context) -> PrunedWeights:
        """Decide which weights are removed.

        Raises:
            PlanError: a layer would lose all its weights, or the score needs what the context lacks.
        """
        if self.keep == 1.0 and self.where is None:
            return PrunedWeights(masks={}, shapes={}, left={})
        model = plain(model, context.inputs)
        chosen, left = fitting(model, self.where, self.exclude, self.pattern)
        scores = weight_scores(self.score, model, chosen, context, keep=self.keep, allocation=self.allocation)
        counts = self.allocation.counts(scores, self.keep)
        empty = [name for name, count in counts.items() if count == 0]
        if empty:
            raise PlanError(
                f"Keeping {self.keep:g} of the weights would leave none in {', '.join(empty[:3])}"
                f"{', …' if len(empty) > 3 else ''}. Keep more, exclude them, or use allocation=Uniform()."
            )
        masks = {name: pattern_mask(self.pattern, score, counts[name]) for name, score in scores.items()}
        return PrunedWeights.of(masks, left)
