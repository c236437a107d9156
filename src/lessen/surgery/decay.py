"""Parameters with a weight decay of their own, whatever the optimizer gives the others."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn


class OwnDecay(nn.Parameter):
    """A parameter that the optimizers of `lessen.graph` decay by its own amount: 0 for the step of a grid.

    Args:
        data: Its first values.
        requires_grad: Whether it learns.
        decay: Its weight decay.
    """

    decay: float

    def __new__(cls, data: Tensor, requires_grad: bool = True, decay: float = 0.0) -> Self:
        made = super().__new__(cls, data, requires_grad)
        made.decay = decay
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        twin: Self = super().__deepcopy__(memo)  # type: ignore[no-untyped-call]
        twin.decay = self.decay
        return twin
