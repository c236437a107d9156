"""Distances between two tensors of one shape (N, ...): one value per example, shape (N,)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def mean_squared(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of squared differences over all axes but the first.

    >>> mean_squared(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([5.])
    """
    return _rows(student - teacher).square().mean(1)


def mean_absolute(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean of absolute differences over all axes but the first."""
    return _rows(student - teacher).abs().mean(1)


def mean_huber(student: Tensor, teacher: Tensor, *, threshold: float = 1.0) -> Tensor:
    """The mean of d^2 / (2 threshold) where the difference d is below the threshold, of |d| - threshold / 2 beyond.

    >>> mean_huber(torch.tensor([[0.5, 3.0]]), torch.zeros(1, 2))
    tensor([1.3125])
    """
    return F.smooth_l1_loss(_rows(student), _rows(teacher), reduction="none", beta=threshold).mean(1)


def euclidean(student: Tensor, teacher: Tensor) -> Tensor:
    """The length of the difference, not squared; its gradient at zero is zero."""
    length: Tensor = torch.linalg.vector_norm(_rows(student - teacher), dim=1)
    return length


def log_sum(student: Tensor, teacher: Tensor, *, power: float) -> Tensor:
    """log(1 + the sum of absolute differences to a power): near the largest difference, softly.

    >>> log_sum(torch.tensor([[3.0, 0.0]]), torch.zeros(1, 2), power=1.0)
    tensor([1.3863])
    """
    return _rows(student - teacher).abs().pow(power).sum(1).log1p()


def cosine(student: Tensor, teacher: Tensor, *, tiny: float = 1e-8) -> Tensor:
    """1 - cosine of the angle between the flattened tensors, from 0 to 2; 1 where one of them is zero."""
    return 1 - F.cosine_similarity(_rows(student), _rows(teacher), dim=1, eps=tiny)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.flatten(1) if tensor.ndim > 1 else tensor.unsqueeze(1)
