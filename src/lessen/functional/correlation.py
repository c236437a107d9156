"""Pearson's correlation along one axis."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def pearson(first: Tensor, second: Tensor, *, dim: int, tiny: float = 1e-8) -> Tensor:
    """The correlation of two tensors of one shape along an axis, which is left out: from -1 to 1.

    It does not change when either is multiplied by a positive number or shifted along the axis. 0 where one of them is
    constant (its deviations shorter than `tiny`).

    >>> import torch
    >>> pearson(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[10.0, 20.0, 40.0]]), dim=1)
    tensor([1.0000])
    """
    first, second = (tensor - tensor.mean(dim, keepdim=True) for tensor in (first, second))
    return F.cosine_similarity(first, second, dim=dim, eps=tiny)
