"""What every method of pruning with the inputs of a layer is.

Shapes: R rows (outputs), I inputs.
"""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from lessen.core import Card
from lessen.operations.parts.pattern import Pattern
from lessen.operations.second_order.choice import Choice


@runtime_checkable
class ReconstructionMethod(Protocol):
    """A settings object that prunes a matrix, knowing what it is multiplied with."""

    card: ClassVar[Card]

    @property
    def usual(self) -> Pattern:
        """The pattern that the method is known with."""

    def prune(self, weight_RI: Tensor, gram_II: Tensor, choice: Choice) -> tuple[Tensor, Tensor]:
        """What is kept, boolean (R, I), and the weights, zero elsewhere.

        Args:
            weight_RI: The weights, float64.
            gram_II: H = X^T X, float64, positive definite.
            choice: How many are kept, and in which pattern.
        """
