"""Weights that the network around their layer rounds, and parameters that such a network needs in full.

The grids of a quantized network are a `Holder`: they answer for the parameters of its layers with these forms. Nothing
is registered on the layers, so later operations may change them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lessen.surgery.forms.base import Form
from lessen.surgery.packing import Known, Lattice


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How a weight is rounded.

    Args:
        grid: Where to.
        seen: From the weight to what the network multiplies by.
    """

    grid: Lattice
    seen: Callable[[Tensor], Tensor]


class Rounded(Form):
    """A weight that is rounded to a symmetric grid for each output channel.

    Args:
        bits: Of a code in a file that runs.
        rounding: Gives how it is rounded, as it is now; or None if that is not known.
    """

    words: ClassVar[str] = "on a grid"

    def __init__(self, *, bits: int, rounding: Callable[[], Rounding | None]) -> None:
        super().__init__()
        self.bits, self.rounding = bits, rounding

    def forward(self, stored: Tensor) -> Tensor:
        rounding = self.rounding()
        return stored if rounding is None else rounding.seen(stored)

    def file_bits(self, bits: int) -> int:
        """The bits of a code, or fewer if something else stores it so."""
        return min(bits, self.bits)

    def simpler(self, stored: Tensor) -> tuple[Tensor, Known]:
        """The weight rounded to its grid, if the network then multiplies by the same."""
        rounding = self.rounding()
        if rounding is None:
            return stored, Known()
        rounded = rounding.grid.round(stored)
        same = torch.equal(rounding.seen(rounded), rounding.seen(stored))
        return (rounded, Known(grid=rounding.grid)) if same else (stored, Known())

    def same(self, other: Form) -> bool:
        """Whether another form rounds to the same."""
        if not isinstance(other, Rounded):
            return False
        mine, its = self.rounding(), other.rounding()
        if mine is None or its is None:
            return False
        one, two = mine.grid, its.grid
        return (one.axis, one.limit, one.ends) == (two.axis, two.limit, two.ends) and torch.equal(one.scale, two.scale)


class Exact(Form):
    """A parameter that kernels read in full precision.

    Args:
        bits: Of a number.
        why: What it is, for people.
    """

    words: ClassVar[str] = "in full precision"

    def __init__(self, *, bits: int, why: str) -> None:
        super().__init__()
        self.bits, self.why = bits, why

    def forward(self, stored: Tensor) -> Tensor:
        return stored

    def file_bits(self, bits: int) -> int:
        """All of them, whatever else stores it in fewer."""
        return self.bits

    def under_half(self) -> str:
        """Why it cannot be stored in 16 bits."""
        return self.why
