"""Isomorphic pruning: channels compete only with those of groups that are built alike.

Fang et al., Isomorphic pruning for vision models, ECCV 2024, arXiv:2407.04616.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from lessen.core import settings
from lessen.operations.parts.allocation import Allocation, Global
from lessen.surgery.coupling import Coupling
from lessen.surgery.modules import get_module


@runtime_checkable
class AmongKinds(Protocol):
    """An allocation that asks which groups are built alike."""

    def among(self, kinds: Mapping[str, Hashable]) -> Allocation:
        """The allocation for groups of these kinds."""


@settings
class Isomorphic:
    """Every kind of group keeps the same share, and channels compete only within their kind.

    Scores of the inner channels of a block, of a residual stream and of heads are sums over other numbers of other
    weights, so a ranking over all of them compares what cannot be compared.

    Args:
        allocation: How a share is divided within a kind.
    """

    allocation: Allocation = Global()

    def among(self, kinds: Mapping[str, Hashable]) -> Allocation:
        """The allocation for groups of these kinds."""
        return _Among(self.allocation, kinds)


@dataclass(frozen=True)
class _Among:
    allocation: Allocation
    kinds: Mapping[str, Hashable]

    def counts(self, scores: Mapping[str, Tensor], keep: float) -> dict[str, int]:
        """Each kind by itself."""
        found: dict[str, int] = {}
        for kind in dict.fromkeys(self.kinds[name] for name in scores):
            own = {name: score for name, score in scores.items() if self.kinds[name] == kind}
            found |= self.allocation.counts(own, keep)
        return {name: found[name] for name in scores}


def kinds_of(model: nn.Module, coupling: Coupling) -> dict[str, Hashable]:
    """For each group what it is built of: the layers that make and use its channels, on which side; no sizes."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def layer(tensor: str) -> str:
        path, _, last = tensor.rpartition(".")
        return f"{type(get_module(model, path)).__name__}.{last}" if path in modules else last

    return {
        name: tuple(sorted((layer(m.tensor), m.dim, m.consumes, len(m.layout)) for m in group.members))
        for name, group in coupling.groups.items()
    }
