"""Allocation: how a share to keep is divided over the parts of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lessen.core import settings


@runtime_checkable
class Allocation(Protocol):
    """How many items each part keeps, given the scores of its items and the share to keep over all."""

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """Items to keep in each part; `scores` maps a part to the scores of its items, any shape."""


def top(score: Tensor, count: int) -> Tensor:
    """A mask of exactly `count` highest scores, the shape of `score`; of equal scores the earlier are kept.

    >>> top(torch.tensor([1.0, 3.0, 1.0]), 2)
    tensor([ True,  True, False])
    """
    order = score.flatten().sort(descending=True, stable=True).indices
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[order[:count].cpu()] = True
    return mask.view(score.shape)


@settings
class Uniform:
    """Every part keeps the same share of its own items."""

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """The share of each part's size, rounded to the nearest whole number."""
        return {name: round(keep * score.numel()) for name, score in scores.items()}


@settings
class Global:
    """All items compete with one another, so that parts that matter less lose more."""

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """How many of the highest scores of all fall on each part; exactly the rounded share over all."""
        if not scores:
            return {}
        flat = torch.cat([score.flatten() for score in scores.values()])
        kept = top(flat, round(keep * flat.numel()))
        parts = kept.split([score.numel() for score in scores.values()])
        return {name: int(part.sum()) for name, part in zip(scores, parts, strict=True)}
