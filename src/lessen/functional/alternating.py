"""Sparse least squares by alternating directions: weights that fit and weights that are sparse agree step by step.

Meng et al., ALPS: improved optimization for highly sparse one-shot pruning for large language models, NeurIPS 2024,
arXiv:2406.07831.

    B <- (W H - V + rho D) (H + rho I)^-1        fits
    D <- the best of B + V / rho                 is sparse
    V <- V + rho (B - D)                         how far they disagree

rho grows faster while the support of D still changes much, and it ends when the support has come to rest and B and D
agree. Then the weights on that support are improved by conjugate gradients.

Shapes: R rows, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

FAST, SLOW, SLOWEST = 1.3, 1.2, 1.1
"""By how much rho grows where more than 10 % of the support has changed, more than 0.5 %, and less."""


def alternate(
    weight_RI: Tensor,
    gram_II: Tensor,
    choose: Callable[[Tensor], Tensor],
    *,
    rho: float,
    most: int,
    every: int = 3,
    agreement: float = 0.01,
) -> Tensor:
    """What is kept, boolean (R, I).

    Args:
        weight_RI: The weights.
        gram_II: H, positive definite. For the choice to compare like with like, scale inputs to unit length before.
        choose: From the size of each weight, a boolean mask of what is kept.
        rho: The first weight of agreement, relative to the mean diagonal of H.
        most: The most steps.
        every: At how many steps rho is changed, and the support compared.
        agreement: How near B and D must be at the end, as a share of D. A support that has not moved yet has not come
            to rest: without this, narrow layers end where they began.
    """
    weight_RI, gram_II = weight_RI.double(), gram_II.double()
    values_I, vectors_II = torch.linalg.eigh(gram_II)
    rho = rho * float(gram_II.diagonal().mean())
    target_RI = weight_RI @ gram_II
    sparse_RI, dual_RI = weight_RI, torch.zeros_like(weight_RI)
    kept_RI = before_RI = choose(weight_RI.abs()).to(weight_RI.device)
    for step in range(1, most + 1):
        right_RI = target_RI - dual_RI + rho * sparse_RI
        fitting_RI = (right_RI @ vectors_II / (values_I + rho)) @ vectors_II.T
        wanted_RI = fitting_RI + dual_RI / rho
        kept_RI = choose(wanted_RI.abs()).to(weight_RI.device)
        sparse_RI = wanted_RI * kept_RI
        dual_RI = dual_RI + rho * (fitting_RI - sparse_RI)
        if step % every == 0:
            changed = int((kept_RI != before_RI).sum())
            apart = float((fitting_RI - sparse_RI).norm())
            if changed == 0 and apart <= agreement * float(sparse_RI.norm()):
                break
            share = changed / max(1, int(kept_RI.sum()))
            rho *= FAST if share > 0.1 else SLOW if share > 0.005 else SLOWEST
            before_RI = kept_RI
    return kept_RI


def conjugate_gradients(weight_RI: Tensor, gram_II: Tensor, kept_RI: Tensor, *, steps: int, tolerance: float) -> Tensor:
    """Weights on a support that come near to those of least squares there, in float64; all rows at once.

    Preconditioned by the diagonal. Starts from `weight_RI` with zeros where nothing is kept.

    Args:
        weight_RI: The weights whose outputs are to be met.
        gram_II: H, positive definite.
        kept_RI: The support.
        steps: The most steps.
        tolerance: Ends where the residual has fallen to this part of the right side.
    """
    weight_RI, gram_II = weight_RI.double(), gram_II.double()
    right_RI = (weight_RI @ gram_II) * kept_RI
    found_RI = weight_RI * kept_RI
    residual_RI = right_RI - (found_RI @ gram_II) * kept_RI
    scale_I = gram_II.diagonal().reciprocal()
    direction_RI = residual_RI * scale_I
    product = (residual_RI * direction_RI).sum()
    limit = tolerance * float(right_RI.norm())
    for _ in range(steps):
        if float(residual_RI.norm()) <= limit:
            break
        moved_RI = (direction_RI @ gram_II) * kept_RI
        length = product / (direction_RI * moved_RI).sum()
        found_RI = found_RI + length * direction_RI
        residual_RI = residual_RI - length * moved_RI
        ahead_RI = residual_RI * scale_I
        after = (residual_RI * ahead_RI).sum()
        direction_RI = ahead_RI + after / product * direction_RI
        product = after
    return found_RI
