"""Losses whose gradient an optimizer gets by itself, apart from that of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lessen.graph.leading import led


class Carriers(nn.Module):
    """A parameter of zeros for each of some parameters: its gradient is the part that is kept apart.

    Being parameters, they take part in all that happens to gradients: sums over parts of a batch and over processes,
    scaling, clipping.

    Args:
        named: The parameters, by name.
    """

    def __init__(self, named: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self._own = list(named.values())
        self.zeros = nn.ParameterList(nn.Parameter(torch.zeros_like(own, requires_grad=False)) for own in self._own)

    def named(self, names: Sequence[str]) -> dict[str, nn.Parameter]:
        """The carriers by the names of the parameters."""
        return dict(zip(names, self.zeros, strict=True))

    def carried(self, loss: Tensor, others: Sequence[nn.Parameter], scale: Tensor | None = None) -> Tensor:
        """A loss of the same value whose gradient arrives at the carriers in place of the parameters.

        Args:
            loss: A scalar.
            others: Parameters of other owners, which get their gradient as without this.
            scale: See `led`.
        """
        ways = [(own, zero, 1.0) for own, zero in zip(self._own, self.zeros, strict=True) if own.requires_grad]
        ways += [(other, other, 1.0) for other in others if other.requires_grad]
        return led(loss, ways, scale)
