"""The exact optimal brain surgeon, row by row, and over all rows by what each removal costs (ExactOBS, OBC).

Frantar & Alistarh, Optimal brain compression, NeurIPS 2022, arXiv:2208.11580. The mathematics is in
`lessen.functional.optimal_brain`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.optimal_brain import cheapest_first, first_of, removal_order
from lessen.functional.quadratic import on_support
from lessen.operations.parts.pattern import NM, Anywhere, Pattern, PerRow
from lessen.operations.second_order.choice import Choice


@settings
class ExactObs:
    """Remove the weight of a row that costs least, adjust the others optimally, and repeat."""

    card: ClassVar[Card] = Card(
        row="operations / reconstruction methods",
        paper="OBC, arXiv:2208.11580",
        says="Greedy, and exact in each step: the remaining weights are always optimal on their support.",
        costs="Outputs x inputs^3 multiplications per layer, and an inverse of inputs^2 per row: for small layers.",
        fails_when="Layers have more than about a thousand inputs: it takes minutes to hours.",
        differs="Weights are solved once more on the final support; greedy steps reach the solution only up to "
        "rounding.",
    )

    @property
    def usual(self) -> Pattern:
        return Anywhere()

    def prune(self, weight_RI: Tensor, gram_II: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        pattern, gone_RI = choice.pattern, ~choice.alive
        group, most = (pattern.m, pattern.m - pattern.n) if isinstance(pattern, NM) else (None, 0)
        order_RI, cost_RI = removal_order(weight_RI, gram_II, gone_RI=gone_RI, group=group, most=most)
        rows, inputs = weight_RI.shape
        if isinstance(pattern, NM):
            # What cannot be removed comes last, at infinite cost; more may be removed already than the pattern asks.
            count_R = cost_RI.isfinite().sum(1)
        elif isinstance(pattern, PerRow):
            count_R = (inputs - max(1, round(choice.count / rows))) * torch.ones(rows, dtype=torch.long)
            count_R = torch.maximum(count_R, gone_RI.sum(1).cpu())
        else:
            count_R = cheapest_first(cost_RI, weight_RI.numel() - choice.count)
        kept_RI = ~first_of(order_RI, count_R)
        return kept_RI, on_support(weight_RI, gram_II, kept_RI)
