"""SparseGPT: prune column by column, and let the columns to come make good what was lost.

Frantar & Alistarh, ICML 2023, arXiv:2301.00774. The mathematics is in `lessen.functional.column_pruning`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.column_pruning import prune_columns
from lessen.operations.parts.pattern import Anywhere, Pattern
from lessen.operations.second_order.choice import Choice


@settings
class SparseGpt:
    """A fast approximation of the optimal brain surgeon, with one factorisation for all rows.

    Args:
        block: Number of columns among which weights compete.
    """

    block: Annotated[int, Field(ge=1)] = 128

    card: ClassVar[Card] = Card(
        row="operations / reconstruction methods",
        paper="SparseGPT, arXiv:2301.00774",
        says="A weight's cost is its square over the pivot of its column; later columns compensate for its removal.",
        costs="One inverse and two factorisations of inputs x inputs for each layer.",
        fails_when="The last columns of a row have no later ones to compensate for them; ALPS does not depend on the "
        "order.",
        differs="Exactly the requested number is kept: released code compares with a threshold, and prunes one more "
        "in each block.",
    )

    @property
    def usual(self) -> Pattern:
        return Anywhere()

    def prune(self, weight_RI: Tensor, gram_II: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        group = choice.group or self.block
        block = group * max(1, self.block // group)
        return prune_columns(weight_RI, gram_II, choice.among_columns, group=group, block=block)
