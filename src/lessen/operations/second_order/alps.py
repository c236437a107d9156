"""ALPS: the support and the weights are sought together, by alternating directions.

Meng et al., NeurIPS 2024, arXiv:2406.07831. The mathematics is in `lessen.functional.alternating`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.alternating import alternate, conjugate_gradients
from lessen.operations.parts.pattern import Anywhere, Pattern
from lessen.operations.second_order.choice import Choice


@settings
class Alps:
    """Finds a better set of weights to keep (support) than greedy methods do, most of all at the highest sparsities.

    Args:
        rho: The initial penalty on the difference between the dense and the sparse weights (ADMM).
        steps: The maximum number of alternating steps.
        polish: Steps of conjugate gradients on the support, where there is no refit.
    """

    rho: Annotated[float, Field(gt=0)] = 0.1
    steps: Annotated[int, Field(ge=1)] = 300
    polish: Annotated[int, Field(ge=0)] = 10

    card: ClassVar[Card] = Card(
        row="operations / reconstruction methods",
        paper="ALPS, arXiv:2406.07831",
        says="A dense solution and a sparse one are pulled together until the support stops changing.",
        costs="One eigendecomposition of inputs x inputs per layer, and a few hundred products of outputs x inputs^2.",
        fails_when="Time is limited: SparseGPT is several times faster.",
        differs="The number kept is set per layer or per row, as the pattern says; released code only has it per "
        "layer, and stops as soon as the support has not changed for three steps, which happens at the start "
        "in narrow layers. Exact least squares replaces conjugate gradients in the refit.",
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
