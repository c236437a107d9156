"""Pruning column by column: each column's error is made good by the columns that are still to come (SparseGPT).

Frantar & Alistarh, SparseGPT: massive language models can be accurately pruned in one shot, ICML 2023,
arXiv:2301.00774.

All rows share one order, so one Cholesky factor of H^-1 serves them all: with U its upper factor, removing w from
column j costs w^2 / U_jj^2, and the later columns move by - w / U_jj times row j of U.

Shapes: R rows, I inputs, B columns of a block.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def prune_columns(
    weight_RI: Tensor, gram_II: Tensor, choose: Callable[[Tensor, int], Tensor], *, group: int, block: int
) -> tuple[Tensor, Tensor]:
    """What is kept, boolean (R, I), and the weights, zero where they are not kept, in float64.

    Args:
        weight_RI: The weights.
        gram_II: H, positive definite.
        choose: From the cost of removing each weight of `group` columns, and the number of the first of these, a
            boolean mask of what is kept.
        group: At how many columns masks are chosen at once.
        block: How many columns are moved one after another before all the later ones are, at once; a multiple of
            `group`, or less. It changes the time only.
    """
    weight_RI = weight_RI.double().clone()
    kept_RI = torch.ones_like(weight_RI, dtype=torch.bool)
    factor_II = inverse_factor(gram_II)
    inputs = weight_RI.shape[1]
    for start in range(0, inputs, block):
        end = min(start + block, inputs)
        errors_RB = torch.zeros_like(weight_RI[:, start:end])
        for column in range(start, end):
            if (column - start) % group == 0:
                part = slice(column, min(column + group, end))
                price_RB = (weight_RI[:, part] / factor_II.diagonal()[part]).square()
                kept_RI[:, part] = choose(price_RB, column).to(kept_RI.device)
            removed_R = weight_RI[:, column] * ~kept_RI[:, column] / factor_II[column, column]
            weight_RI[:, column:end] -= removed_R.unsqueeze(1) * factor_II[column, column:end]
            errors_RB[:, column - start] = removed_R
        weight_RI[:, end:] -= errors_RB @ factor_II[start:end, end:]
    return kept_RI, weight_RI * kept_RI


def inverse_factor(gram_II: Tensor) -> Tensor:
    """The upper factor U of H^-1 = U^T U, in float64."""
    inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(gram_II.double()))
    factor_II: Tensor = torch.linalg.cholesky(inverse_II, upper=True)
    return factor_II
