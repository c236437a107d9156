"""The smallest weights go: the baseline, which with refit is harder to beat than it looks."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.operations.parts.pattern import Anywhere, Pattern
from lessen.operations.second_order.choice import Choice


@settings
class Smallest:
    """Remove the smallest weights, as PruneWeights does; the inputs serve only to refit the kept weights."""

    card: ClassVar[Card] = Card(
        row="operations / reconstruction methods",
        paper="arXiv:1506.02626; refit: He et al., ICCV 2017, arXiv:1707.06168",
        says="The baseline of the others: the same refit, with a score that ignores the inputs.",
        costs="The cost of the refit.",
        fails_when="Inputs differ in scale: a large weight on a small input is kept.",
    )

    @property
    def usual(self) -> Pattern:
        return Anywhere()

    def prune(self, weight_RI: Tensor, gram_II: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        kept_RI = choice.among(weight_RI.abs())
        return kept_RI, weight_RI * kept_RI
