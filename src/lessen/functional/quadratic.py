"""The error of a layer whose weights change, and the best weights on a given support.

The squared change of a layer's outputs is a quadratic form in the change of its weights: with X the inputs (P, I) and
H = X^T X, a row w of the weight that becomes v costs (w - v) H (w - v)^T. With some weights held at zero, the best of
the others solve H_SS v_S = (H w)_S, where S is what is kept: least squares on the support, exact, row by row.

Shapes: R rows (outputs), I inputs, K the most weights kept in a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

_LARGEST = 2**24
"""How many numbers of the systems of rows are in memory at once: 128 MiB in float64."""


def damped(gram_II: Tensor, damping: float) -> Tensor:
    """H with `damping` times its mean diagonal added to the diagonal, so that it has an inverse, in float64.

    An input that was always zero has a weight that no data speaks of. It keeps a small positive diagonal: its weights
    are the cheapest to remove, and nothing else is moved on their account.

    >>> damped(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), 0.1)
    tensor([[2.1000, 0.0000],
            [0.0000, 0.1000]], dtype=torch.float64)
    """
    gram_II = gram_II.double()
    mean = float(gram_II.diagonal().mean())
    if mean == 0:
        return torch.eye(len(gram_II), dtype=torch.float64, device=gram_II.device)
    more_I = torch.full_like(gram_II.diagonal(), damping * mean)
    more_I[gram_II.diagonal() + more_I == 0] = 1e-8 * mean
    return gram_II + torch.diag(more_I)


def quadratic_error(change_RI: Tensor, gram_II: Tensor) -> Tensor:
    """The squared change of the outputs of each row, shape (R,), in float64.

    >>> quadratic_error(torch.tensor([[1.0, 2.0]]), torch.eye(2))
    tensor([5.], dtype=torch.float64)
    """
    change_RI = change_RI.double()
    return ((change_RI @ gram_II.double()) * change_RI).sum(1)


def on_support(weight_RI: Tensor, gram_II: Tensor, kept_RI: Tensor) -> Tensor:
    """The weights nearest in outputs to `weight_RI` that are zero where they are not kept, in float64.

    Args:
        weight_RI: The weights.
        gram_II: H, positive definite (see `damped`).
        kept_RI: Boolean; each row may keep others, and another number.

    >>> gram = torch.tensor([[1.0, 0.5], [0.5, 1.0]])
    >>> on_support(torch.tensor([[1.0, 1.0]]), gram, torch.tensor([[True, False]]))
    tensor([[1.5000, 0.0000]], dtype=torch.float64)
    """
    weight_RI, gram_II = weight_RI.double(), gram_II.double()
    target_RI = weight_RI @ gram_II
    found_RI = torch.zeros_like(weight_RI)
    order_R = kept_RI.sum(1).argsort()  # rows that keep about as many are solved together
    place = 0
    while place < len(order_R):
        size = max(1, _LARGEST // max(1, int(kept_RI[order_R[place:]].sum(1).max()) ** 2))
        rows_R = order_R[place : place + size]
        found_RI[rows_R] = _solve(target_RI[rows_R], gram_II, kept_RI[rows_R])
        place += size
    return found_RI


def _solve(target_RI: Tensor, gram_II: Tensor, kept_RI: Tensor) -> Tensor:
    """Least squares of some rows at once: systems of K unknowns, the missing ones filled up with 1 x = 0."""
    count_R = kept_RI.sum(1)
    most = int(count_R.max())
    found_RI = torch.zeros_like(target_RI)
    if most == 0:
        return found_RI
    places_RK = kept_RI.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :most]
    real_RK = torch.arange(most, device=kept_RI.device) < count_R.unsqueeze(1)
    systems_RKK = gram_II[places_RK.unsqueeze(2), places_RK.unsqueeze(1)]
    both_RKK = real_RK.unsqueeze(2) & real_RK.unsqueeze(1)
    systems_RKK = torch.where(both_RKK, systems_RKK, torch.eye(most, dtype=gram_II.dtype, device=gram_II.device))
    sides_RK = target_RI.gather(1, places_RK) * real_RK
    factors_RKK = torch.linalg.cholesky(systems_RKK)
    values_RK = torch.cholesky_solve(sides_RK.unsqueeze(2), factors_RKK).squeeze(2)
    return found_RI.scatter_(1, places_RK, values_RK * real_RK) * kept_RI
