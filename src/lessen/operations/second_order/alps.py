"""ALPS: the support and the weights are sought together, by alternating directions.

Meng et al., NeurIPS 2024, arXiv:2406.07831. The mathematics is in `lessen.functional.alternating`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.alternating import alternate, conjugate_gradients
from lessen.operations.pattern import Anywhere, Pattern
from lessen.operations.second_order.choice import Choice


@settings
class Alps:
    """Nearer to the best support than greedy methods, at the highest sparsities most of all.

    Args:
        rho: The first weight of agreement between the weights that fit and those that are sparse.
        steps: The most steps of alternation.
        polish: Steps of conjugate gradients on the support, where there is no refit.
    """

    rho: Annotated[float, Field(gt=0)] = 0.1
    steps: Annotated[int, Field(ge=1)] = 300
    polish: Annotated[int, Field(ge=0)] = 10

    card: ClassVar[Card] = Card(
        row="operations / reconstruction methods",
        paper="ALPS, arXiv:2406.07831",
        says="Weights that fit and weights that are sparse are drawn together until the support comes to rest.",
        costs="One eigendecomposition of inputs x inputs a layer, and some hundred products of outputs x inputs^2.",
        fails_when="Time is short: SparseGPT is several times faster.",
        differs="The number kept is that of the layer, or of each row, as the pattern says; released code has the "
        "layer's alone, and ends as soon as the support has not changed for three steps, which narrow layers do at the "
        "start. Exact least squares replaces conjugate gradients where there is a refit.",
    )

    @property
    def usual(self) -> Pattern:
        return Anywhere()

    def prune(self, weight_RI: Tensor, gram_II: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        norm_I = gram_II.diagonal().sqrt()
        unit_II = gram_II / norm_I / norm_I.unsqueeze(1)
        scaled_RI = weight_RI * norm_I
        kept_RI = alternate(scaled_RI, unit_II, choice.among, rho=self.rho, most=self.steps)
        found_RI = conjugate_gradients(scaled_RI, unit_II, kept_RI, steps=self.polish, tolerance=1e-4)
        return kept_RI, found_RI / norm_I
