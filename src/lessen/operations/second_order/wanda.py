"""Wanda: a weight matters as much as it is large and its input is.

Sun et al., A simple and effective pruning approach for large language models, ICLR 2024, arXiv:2306.11695.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.operations.parts.pattern import Pattern, PerRow
from lessen.operations.second_order.choice import Choice


@settings
class Wanda:
    """Score weights by |w| times the norm of their input; the weights of one output compete."""

    card: ClassVar[Card] = Card(
        row="operations / reconstruction methods",
        paper="Wanda, arXiv:2306.11695",
        says="Only the norms of the inputs are needed, and no weight changes unless refit is set.",
        costs="One pass over the calibration examples.",
        fails_when="Inputs are correlated: the effect that two weights share is counted twice. Without refit nothing "
        "corrects the error. Rows are short (first layers, depthwise convolutions): each row loses its share, whether "
        "it needs it or not.",
        differs="Exactly the requested number is kept. Weights are refit on the support, which the paper does not do.",
    )

    @property
    def usual(self) -> Pattern:
        return PerRow()

    def prune(self, weight_RI: Tensor, gram_II: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        kept_RI = choice.among(weight_RI.abs() * gram_II.diagonal().sqrt())
        return kept_RI, weight_RI * kept_RI
