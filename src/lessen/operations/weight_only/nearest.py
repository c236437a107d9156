"""Every weight to the nearest value of its group's grid: round to nearest."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.operations.weight_only.grid import group_grids, on_grids
from lessen.operations.weight_only.rounding import Rounding
from lessen.surgery.forms.codes import Coded


def nearest(weight_OI: Tensor, *, bits: int, group: int, symmetric: bool) -> Coded:
    """The nearest codes on grids from the smallest to the largest weight of each group."""
    step_OG, zero_OG = group_grids(weight_OI, bits=bits, group=group, symmetric=symmetric)
    return on_grids(weight_OI, step_OG, zero_OG, bits=bits, group=group)


@settings
class Nearest:
    """Round each weight to the nearest value, independently of the others."""

    needs_inputs: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        row="operations / rounding of weights",
        paper="arXiv:2210.17323 (its baseline, RTN)",
        says="Each weight takes the nearest value on the grid of its group.",
        costs="Nothing: no data, one pass over the weights.",
        fails_when="2 or 3 bits: the errors of a row add up, and nothing compensates for them.",
    )

    def round(self, weight_OI: Tensor, rounding: Rounding) -> Coded:
        """The codes of a weight."""
        return nearest(weight_OI, bits=rounding.bits, group=rounding.group, symmetric=rounding.symmetric)
