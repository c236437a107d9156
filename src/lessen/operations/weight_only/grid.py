"""Grids of a few bits for groups of weights, and the nearest code on them.

    code = clamp(round(weight / step) + zero, 0, 2^bits - 1),    weight' = step * (code - zero)

Zero is always one of the values, so weights that were pruned stay zero. Steps have 16 significant bits at most (those
of float16), so that a compressed file needs no more for them, and codes are chosen for the steps that are stored.

Shapes: O rows, I inputs of a row, G groups of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.surgery.forms.codes import Coded, spread

_SMALLEST = 2.0**-14
"""The smallest number that float16 holds with all its digits; smaller steps keep theirs."""


def group_grids(weight_OI: Tensor, *, bits: int, group: int, symmetric: bool) -> tuple[Tensor, Tensor]:
    """The steps and the codes of zero that cover each group, shape (O, G) each, in the type of the weight.

    Args:
        weight_OI: The weights.
        bits: 2 to 8.
        group: How many weights of a row share a step; the last group may be smaller.
        symmetric: Whether the code of zero is 2^(bits - 1), whatever the weights. There is one code more on one side of
            it than on the other; the lowest code is the largest weight of the group, so where that is positive the
            step is negative.

    >>> group_grids(torch.tensor([[0.0, 3.0, -1.0, 0.5]]), bits=2, group=2, symmetric=False)
    (tensor([[1.0000, 0.5000]]), tensor([[0., 2.]]))
    >>> group_grids(torch.tensor([[-1.0, 3.0, -1.0, 0.5]]), bits=2, group=2, symmetric=True)
    (tensor([[-1.5000,  0.5000]]), tensor([[2., 2.]]))
    """
    levels = 2**bits - 1
    padded = F.pad(weight_OI, (0, -weight_OI.shape[1] % group)).unflatten(1, (-1, group))
    low_OG, high_OG = padded.amin(2).clamp(max=0), padded.amax(2).clamp(min=0)
    if symmetric:
        largest_OG = torch.where(-low_OG >= high_OG, low_OG, high_OG)
        step_OG = rounded_step(-largest_OG / 2 ** (bits - 1))
        return step_OG, torch.full_like(step_OG, 2 ** (bits - 1))
    step_OG = rounded_step((high_OG - low_OG) / levels)
    return step_OG, (low_OG.abs() / step_OG).round().clamp(0, levels)


def rounded_step(step: Tensor) -> Tensor:
    """Steps that float16 holds exactly, where it can; 1 where a whole group is zero."""
    short = step.half().to(step.dtype)
    fits = (short.abs() >= _SMALLEST) & short.isfinite()
    return torch.where(step != 0, torch.where(fits, short, step), torch.ones_like(step))


def nearest_codes(weight_OI: Tensor, step_OI: Tensor, zero_OI: Tensor, *, bits: int) -> Tensor:
    """The nearest code to each weight, halves to even, in the type of the weight.

    >>> nearest_codes(torch.tensor([[0.6, -9.0]]), torch.ones(1, 1), torch.ones(1, 1), bits=2)
    tensor([[2., 0.]])
    """
    return ((weight_OI / step_OI).round() + zero_OI).clamp(0, 2**bits - 1)


def on_grids(weight_OI: Tensor, step_OG: Tensor, zero_OG: Tensor, *, bits: int, group: int) -> Coded:
    """The weights in codes of these grids."""
    wide_OI = (spread(step_OG, weight_OI, group), spread(zero_OG, weight_OI, group))
    codes_OI = nearest_codes(weight_OI, *wide_OI, bits=bits)
    return Coded(codes=codes_OI.byte(), steps=step_OG, zeros=zero_OG.byte(), group=group)
