"""GPTQ: round column after column, and let those that follow make up for the error.

Frantar et al., GPTQ: Accurate post-training quantization for generative pre-trained transformers, ICLR 2023,
arXiv:2210.17323, section 3: with H = X X^T and U the upper Cholesky factor of its inverse, rounding column j makes an
error e = (w_j - q_j) / U_jj, and the columns behind it become w_k - e U_jk, which is the least-squares answer to it.

Shapes: O rows, I inputs of a row, G groups of a row.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.operations.weight_only.grid import group_grids, nearest_codes
from lessen.operations.weight_only.rounding import Rounding
from lessen.surgery.forms.codes import Coded

_BLOCK = 128
"""Columns behind are brought up to date after so many: the same numbers, in fewer passes over the weight."""


def gptq(
    weight_OI: Tensor, gram_II: Tensor, rounding: Rounding, *, damping: float = 0.01, by_activation: bool = False
) -> Coded:
    """The codes of a weight that its inputs ask for.

    Args:
        weight_OI: In float64.
        gram_II: The sum of x x^T, in float64.
        rounding: Bits, group, kept weights.
        damping: Added to the diagonal, as a share of its mean.
        by_activation: Whether columns with large inputs come first; the grids are then those of the weights as they
            came, else each is chosen when its first column is reached.
    """
    bits, group, symmetric = rounding.bits, rounding.group, rounding.symmetric
    columns, gram_II = weight_OI.shape[1], gram_II.clone()
    diagonal_I = gram_II.diagonal()
    dead_I = diagonal_I == 0
    # An input that is always zero: its weights do not matter to the others.
    diagonal_I += damping * diagonal_I.mean()
    diagonal_I[dead_I] += 1
    order_I = diagonal_I.argsort(descending=True, stable=True) if by_activation else torch.arange(columns)
    left_OI = weight_OI[:, order_I].clone()
    upper_II = inverse_factor(gram_II[order_I][:, order_I])
    step_OG, zero_OG = group_grids(weight_OI, bits=bits, group=group, symmetric=symmetric)
    codes_OI = torch.empty_like(weight_OI)
    for start in range(0, columns, _BLOCK):
        end = min(start + _BLOCK, columns)
        errors = torch.zeros(len(weight_OI), end - start, dtype=weight_OI.dtype)
        for place in range(start, end):
            column = int(order_I[place])
            at = column // group
            if not by_activation and column % group == 0:
                # What is behind this block of columns has not been told of the errors made in it.
                behind = left_OI[:, place : place + group].clone()
                if place + group > end:
                    done = errors[:, : place - start] @ upper_II[start:place, end : place + group]
                    behind[:, end - place :] -= done
                if rounding.kept is not None:
                    behind = behind * rounding.kept[:, place : place + group]
                grid = group_grids(behind, bits=bits, group=group, symmetric=symmetric)
                step_OG[:, at : at + 1], zero_OG[:, at : at + 1] = grid
            step_O, zero_O = step_OG[:, at], zero_OG[:, at]
            codes_O = nearest_codes(left_OI[:, place], step_O, zero_O, bits=bits)
            if rounding.kept is not None:
                codes_O = torch.where(rounding.kept[:, column], codes_O, zero_O)
            codes_OI[:, column] = codes_O
            error_O = (left_OI[:, place] - step_O * (codes_O - zero_O)) / upper_II[place, place]
            left_OI[:, place:end] -= error_O[:, None] * upper_II[place, place:end]
            errors[:, place - start] = error_O
        left_OI[:, end:] -= errors @ upper_II[start:end, end:]
    return Coded(codes=codes_OI.byte(), steps=step_OG, zeros=zero_OG.byte(), group=group)


def inverse_factor(gram_II: Tensor) -> Tensor:
    """The upper Cholesky factor U of the inverse: gram^-1 = U^T U.

    >>> inverse_factor(torch.tensor([[4.0, 0.0], [0.0, 0.25]])).abs()
    tensor([[0.5000, 0.0000],
            [0.0000, 2.0000]])
    """
    upper_II: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(gram_II)), upper=True)
    return upper_II


@settings
class Gptq:
    """Round one column after the other; later columns compensate for the error on the calibration inputs.

    Args:
        damping: Added to the diagonal of H, as a share of its mean.
        by_activation: Whether columns with large inputs are rounded first, on grids computed from the original weights.
    """

    damping: Annotated[float, Field(gt=0, le=1)] = 0.01
    by_activation: bool = False

    needs_inputs: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="operations / rounding of weights",
        paper="arXiv:2210.17323 (GPTQ)",
        says="Rounding one column after the other keeps the outputs of a layer, not its weights, as close as possible.",
        costs="One pass over the calibration examples for each layer, since each sees the inputs that the rounded "
        "layers before it give; a Cholesky factor of the size of its inputs.",
        fails_when="There are few calibration examples, or they differ from the real inputs: the rounding overfits "
        "them. With group=None and 2 bits it can be worse than rounding to nearest on "
        "layers whose errors the next ones amplify.",
        differs="Sequential, in float64. With by_activation the grids are fixed beforehand, so that groups stay "
        "together in the file.",
    )

    def round(self, weight_OI: Tensor, rounding: Rounding) -> Coded:
        """The codes of a weight."""
        assert rounding.gram is not None  # `needs_inputs`
        return gptq(weight_OI, rounding.gram, rounding, damping=self.damping, by_activation=self.by_activation)
