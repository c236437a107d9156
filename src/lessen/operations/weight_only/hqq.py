"""HQQ: move steps and zeros so that most weights are nearly exact, and a few may be far off; without data.

Badri & Shaji, Half-quadratic quantization of large machine learning models, 2023, mobiusml.github.io/hqq_blog. What is
made small is the sum of |w - w'|^p with p < 1, by turns: with an error E of its own, softened towards zero,

    E = shrink(w - w', beta),    grid = argmin sum (w - E - w')^2,    beta <- 1.01 beta

Shapes: O rows, I inputs of a row, G groups of a row.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.operations.weight_only.grid import group_grids, on_grids, rounded_step
from lessen.operations.weight_only.rounding import Rounding
from lessen.surgery.forms.codes import Coded, spread


def norm_error(weight_OI: Tensor, coded: Coded, *, power: float) -> Tensor:
    """The sum of |w - w'|^power over each group, shape (O, G)."""
    error_OI = (weight_OI - coded.weight()).abs().pow(power)
    return _by_group(error_OI, coded.group).sum(2)


def shrink(error: Tensor, beta: float, power: float) -> Tensor:
    """The generalised soft threshold: what is left of an error when `power` of it must be paid for.

    >>> shrink(torch.tensor([0.01, 1.0]), 10.0, 0.7)
    tensor([0.0000, 0.9000])
    """
    size = error.abs()
    left: Tensor = error.sign() * (size - size.clamp_min(1e-12).pow(power - 1) / beta).clamp_min(0)
    return left


def hqq(weight_OI: Tensor, rounding: Rounding, *, power: float = 0.7, rounds: int = 20, beta: float = 10.0) -> Coded:
    """The codes of a weight on the best grids that were found; each group keeps the best of its own.

    Args:
        weight_OI: Floating.
        rounding: Bits and group.
        power: Of the errors, between 0 and 1.
        rounds: Number of times the grids are adjusted.
        beta: How much of an error, in steps of the first grid, must be paid for at first.
    """
    bits, group, symmetric = rounding.bits, rounding.group, rounding.symmetric
    step_OG, zero_OG = group_grids(weight_OI, bits=bits, group=group, symmetric=symmetric)
    made = on_grids(weight_OI, step_OG, zero_OG, bits=bits, group=group)
    best_step, best_zero, least_OG = step_OG, zero_OG, norm_error(weight_OI, made, power=power)
    unit_OI = spread(step_OG, weight_OI, group)
    for _ in range(rounds):
        error_OI = shrink((weight_OI - made.weight()) / unit_OI, beta, power) * unit_OI
        aim_OI = weight_OI - error_OI
        step_OG, zero_OG = _best_grid(aim_OI, made, bits=bits, symmetric=symmetric)
        made = on_grids(weight_OI, step_OG, zero_OG, bits=bits, group=group)
        found_OG = norm_error(weight_OI, made, power=power)
        better_OG = found_OG < least_OG
        least_OG = torch.where(better_OG, found_OG, least_OG)
        best_step, best_zero = torch.where(better_OG, step_OG, best_step), torch.where(better_OG, zero_OG, best_zero)
        beta *= 1.01
    return on_grids(weight_OI, best_step, best_zero, bits=bits, group=group)


def _best_grid(aim_OI: Tensor, made: Coded, *, bits: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The zeros, then the steps, that are nearest to an aim in least squares when codes stay as they are."""
    codes_OGK = _by_group(made.codes.to(aim_OI.dtype), made.group)
    aim_OGK, zero_OG = _by_group(aim_OI, made.group), made.zeros.to(aim_OI.dtype)
    counts_OG = _by_group(torch.ones_like(aim_OI), made.group)
    if not symmetric:
        shift_OGK = (codes_OGK - aim_OGK / made.steps[..., None]) * counts_OG
        zero_OG = (shift_OGK.sum(2) / counts_OG.sum(2)).round().clamp(0, 2**bits - 1)
    offset_OGK = (codes_OGK - zero_OG[..., None]) * counts_OG
    square_OG = offset_OGK.square().sum(2)
    step_OG = (aim_OGK * offset_OGK).sum(2) / square_OG.clamp_min(1e-30)
    step_OG = torch.where((step_OG * made.steps > 0) & (square_OG > 0), step_OG, made.steps)
    return rounded_step(step_OG), zero_OG


def _by_group(values_OI: Tensor, group: int) -> Tensor:
    """Shape (O, G, group), zeros behind the last."""
    whole_OGK: Tensor = F.pad(values_OI, (0, -values_OI.shape[1] % group)).unflatten(1, (-1, group))
    return whole_OGK


@settings
class Hqq:
    """Move steps and zeros so that most weights are nearly exact and a few may be far off; needs no data.

    Args:
        power: The exponent of the errors whose sum is minimised; with a smaller one, a few large errors count less.
        rounds: Number of times the grids are adjusted.
    """

    power: Annotated[float, Field(gt=0, lt=1)] = 0.7
    rounds: Annotated[int, Field(ge=1)] = 20

    needs_inputs: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        row="operations / rounding of weights",
        paper="mobiusml.github.io/hqq_blog (HQQ, 2023)",
        says="Grids ignore the few weights that are far from the rest, so that the rest is rounded more finely.",
        costs="Twenty passes over the weights; no data.",
        fails_when="The few large weights are the ones that matter, which only the inputs can tell.",
        differs="Zero points are integers, so that zero weights stay zero and runtimes can read the file; to "
        "compensate, steps are optimised too, in closed form. Each group keeps its best grid, the first one "
        "included.",
    )

    def round(self, weight_OI: Tensor, rounding: Rounding) -> Coded:
        """The codes of a weight."""
        return hqq(weight_OI, rounding, power=self.power, rounds=self.rounds)
