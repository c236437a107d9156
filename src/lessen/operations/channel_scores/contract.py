"""What a score of whole channels promises."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from lessen.core import Context
from lessen.surgery.coupling import Coupling


@runtime_checkable
class ChannelScore(Protocol):
    """How much each index of each group matters.

    Attributes:
        comparable: Whether figures of different groups mean the same as they are, as changes of the loss do. Where they
            do not, each group is divided by its mean before groups compete.
    """

    comparable: ClassVar[bool]

    def figures(self, model: nn.Module, coupling: Coupling, context: Context) -> dict[str, Tensor]:
        """For each group a figure for each of its indices, float64; larger is kept longer. `model` is not changed.

        A group that this score has nothing to say about is left out, and then left alone.

        Raises:
            PlanError: the context lacks what the score needs.
        """
