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
        """The share of each part's size, rounded to the nearest integer."""
        return {name: round(keep * score.numel()) for name, score in scores.items()}


@settings
class Global:
    """All items compete with each other, so that parts that matter less lose more."""

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """How many of the highest scores of all fall on each part; exactly the rounded share over all."""
        if not scores:
            return {}
        flat = torch.cat([score.flatten() for score in scores.values()])
        kept = top(flat, round(keep * flat.numel()))
        parts = kept.split([score.numel() for score in scores.values()])
        return {name: int(part.sum()) for name, part in zip(scores, parts, strict=True)}


@settings
class LayerAdaptive:
    """All items compete by how much of what would be left of their layer each of them is (LAMP).

    With scores s, an item is worth s_u ** 2 over the sum of s_v ** 2 of the items v of its layer that are worth as much
    or more: the share of the layer that is lost with it once the smaller ones are gone. Give magnitudes, not squares.
    The best item of a layer is worth 1, so no layer loses all.

    Lee et al., Layer-adaptive sparsity for the magnitude-based pruning, ICLR 2021, arXiv:2010.07611.
    """

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """How many of the highest worths of all fall on each part; exactly the rounded share over all."""
        return Global().counts({name: layer_adaptive(score) for name, score in scores.items()}, keep)


@settings
class ErdosRenyi:
    """Thin layers keep more: the density of a layer goes with (sum of its sizes) / (product of its sizes) (ERK).

    A layer whose density would be above 1 is kept whole, and the others share what is left.

    Evci et al., Rigging the lottery, ICML 2020, arXiv:1911.11134, section 3.
    """

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """Density times size, rounded so that over all exactly the rounded share is kept."""
        sizes = {name: score.numel() for name, score in scores.items()}
        weights = {name: sum(score.shape) / score.numel() for name, score in scores.items()}
        total = round(keep * sum(sizes.values()))
        exact = {name: density * sizes[name] for name, density in densities(sizes, weights, total).items()}
        counts = {name: int(value) for name, value in exact.items()}
        # The largest remainders are rounded up; a remainder of 0 may be that of a layer that is kept whole.
        order = sorted(exact, key=lambda name: (counts[name] - exact[name], counts[name] == sizes[name]))
        for name in order[: total - sum(counts.values())]:
            counts[name] += 1
        return counts


def layer_adaptive(score: Tensor) -> Tensor:
    """s_u ** 2 over the sum of s_v ** 2 of all v that rank no lower, the shape of `score`, in float64.

    What is already gone (minus infinity) stays so. Of equal scores the later ranks lower, as in `top`.

    >>> layer_adaptive(torch.tensor([1.0, 2.0, 2.0]))
    tensor([0.1111, 1.0000, 0.5000], dtype=torch.float64)
    """
    flat = score.flatten().double()
    squares, order = flat.clamp(min=0).square().sort(stable=True, descending=True)
    worth = torch.empty_like(flat)
    worth[order] = squares / squares.cumsum(0).clamp(min=torch.finfo(torch.float64).tiny)
    return worth.masked_fill(flat == -torch.inf, -torch.inf).view(score.shape)


def densities(sizes: Mapping[str, int], weights: Mapping[str, float], total: float) -> dict[str, float]:
    """Densities in proportion to `weights`, none above 1, that keep `total` items in all.

    >>> densities({"thin": 10, "wide": 100}, {"thin": 1.0, "wide": 0.1}, 20)
    {'thin': 1.0, 'wide': 0.1}
    """
    whole: set[str] = set()
    while True:
        rest = {name: weights[name] * size for name, size in sizes.items() if name not in whole}
        left = total - sum(sizes[name] for name in whole)
        scale = left / sum(rest.values()) if rest else 0.0
        above = {name for name in rest if scale * weights[name] > 1}
        if not above:
            return {name: 1.0 if name in whole else scale * weights[name] for name in sizes}
        whole |= above
