"""The optimal brain surgeon, exactly: which weight of a row goes next, again and again, and what each costs.

Hassibi & Stork, Second order derivatives for network pruning, NIPS 1992; row by row for layers: Frantar & Alistarh,
Optimal brain compression, NeurIPS 2022, arXiv:2208.11580.

With H = X^T X, removing weight p of a row w costs w_p^2 / [H^-1]_pp if the others are moved as well as they can be, by
- w_p / [H^-1]_pp times column p of H^-1. Then row and column p leave H^-1 by one step of elimination:

    H^-1 <- H^-1 - H^-1[:, p] H^-1[p, :] / [H^-1]_pp

Shapes: R rows, I inputs, S steps, T rows that are computed at once.
"""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

_LARGEST = 2**23
"""How many numbers of inverses are in memory at once: 64 MiB in float64."""


def removal_order(
    weight_RI: Tensor, gram_II: Tensor, *, gone_RI: Tensor | None = None, group: int | None = None, most: int = 0
) -> tuple[Tensor, Tensor]:
    """In which order the weights of each row go, and how much each adds to the squared error: both (R, I).

    Args:
        weight_RI: The weights.
        gram_II: H, positive definite.
        gone_RI: What is already removed; it comes first in the order, at no cost.
        group: Consecutive inputs in groups of so many, of each of which no more than `most` go; None: any may go. What
            cannot be removed comes last, with infinite cost.
        most: See `group`.

    >>> order, cost = removal_order(torch.tensor([[3.0, 1.0, 2.0]]), torch.eye(3))
    >>> order.tolist(), cost.tolist()
    ([[1, 2, 0]], [[1.0, 4.0, 9.0]])
    """
    weight_RI, gram_II = weight_RI.double(), gram_II.double()
    gone_RI = torch.zeros_like(weight_RI, dtype=torch.bool) if gone_RI is None else gone_RI
    size = max(1, _LARGEST // weight_RI.shape[1] ** 2)
    parts = [
        _order(weights, gram_II, gone, group, most)
        for weights, gone in zip(weight_RI.split(size), gone_RI.split(size), strict=True)
    ]
    return torch.cat([order for order, _ in parts]), torch.cat([cost for _, cost in parts])


def cheapest_first(cost_RI: Tensor, count: int) -> Tensor:
    """How many weights go from each row if `count` go in all, always from the row whose next costs least: shape (R,).

    >>> cheapest_first(torch.tensor([[1.0, 5.0], [2.0, 3.0]]), 3)
    tensor([1, 2])
    """
    costs = cost_RI.tolist()
    taken = [0] * len(costs)
    heap = [(row[0], number) for number, row in enumerate(costs)]
    heapq.heapify(heap)
    for _ in range(count):
        _, number = heapq.heappop(heap)
        taken[number] += 1
        if taken[number] < len(costs[number]):
            heapq.heappush(heap, (costs[number][taken[number]], number))
    return torch.tensor(taken)


def first_of(order_RI: Tensor, count_R: Tensor) -> Tensor:
    """True for the first `count_R` of each row's order, shape (R, I)."""
    places = torch.arange(order_RI.shape[1], device=order_RI.device) < count_R.to(order_RI.device).unsqueeze(1)
    return torch.zeros_like(order_RI, dtype=torch.bool).scatter_(1, order_RI, places)


def _order(weight_TI: Tensor, gram_II: Tensor, gone_TI: Tensor, group: int | None, most: int) -> tuple[Tensor, Tensor]:
    rows, inputs = weight_TI.shape
    each_T = torch.arange(rows, device=weight_TI.device)
    inverse_TII, weight_TI = _begin(weight_TI, gram_II, gone_TI)
    gone_TI = gone_TI.clone()
    order_TI = gone_TI.to(torch.int8).sort(dim=1, descending=True, stable=True).indices
    start_T = gone_TI.sum(1)
    cost_TI = torch.zeros_like(weight_TI)
    for step in range(inputs):
        closed_TI = gone_TI if group is None else gone_TI | _full(gone_TI, group, most)
        price_TI = torch.where(closed_TI, torch.inf, weight_TI.square() / inverse_TII.diagonal(dim1=1, dim2=2))
        cost_T, next_T = price_TI.min(1)
        stuck_T = cost_T.isinf()  # what cannot go at all goes last, in its order
        next_T = torch.where(stuck_T, (~gone_TI).to(torch.int8).argmax(1), next_T)
        due_T = start_T <= step  # earlier positions hold what was already removed
        order_TI[due_T, step], cost_TI[due_T, step] = next_T[due_T], cost_T[due_T]
        gone_TI[each_T[due_T], next_T[due_T]] = True
        moving_T = due_T & ~stuck_T
        if not bool(moving_T.any()):
            continue
        column_TI = inverse_TII[each_T, :, next_T]
        pivot_T = column_TI[each_T, next_T]
        weight_TI -= (weight_TI[each_T, next_T] / pivot_T * moving_T).unsqueeze(1) * column_TI
        scaled_TI = column_TI * (pivot_T.rsqrt() * moving_T).unsqueeze(1)
        inverse_TII.addcmul_(scaled_TI.unsqueeze(2), scaled_TI.unsqueeze(1), value=-1)
        # Never looked at again, and never divides by zero.
        inverse_TII[each_T[moving_T], next_T[moving_T], next_T[moving_T]] = 1.0
        weight_TI[each_T[moving_T], next_T[moving_T]] = 0.0
    return order_TI, cost_TI


def _begin(weight_TI: Tensor, gram_II: Tensor, gone_TI: Tensor) -> tuple[Tensor, Tensor]:
    """The inverses of H on what is left of each row, and the best weights there."""
    if not bool(gone_TI.any()):
        inverse_II = torch.cholesky_inverse(torch.linalg.cholesky(gram_II))
        return inverse_II.expand(len(weight_TI), -1, -1).clone(), weight_TI.clone()
    left_TI = ~gone_TI
    both_TII = left_TI.unsqueeze(2) & left_TI.unsqueeze(1)
    system_TII = torch.where(both_TII, gram_II, torch.eye(len(gram_II), dtype=gram_II.dtype, device=gram_II.device))
    inverse_TII = torch.cholesky_inverse(torch.linalg.cholesky(system_TII))
    side_TI = (weight_TI @ gram_II) * left_TI
    return inverse_TII, (inverse_TII @ side_TI.unsqueeze(2)).squeeze(2) * left_TI


def _full(gone_TI: Tensor, group: int, most: int) -> Tensor:
    """Whether no more may go of the group that each weight is in."""
    count = gone_TI.unflatten(1, (-1, group)).sum(2, keepdim=True)
    full_TI: Tensor = (count >= most).expand(-1, -1, group).flatten(1)
    return full_TI
