"""Patterns: which sets of weights may be kept together, given what each is worth.

N:M: Mishra et al., Accelerating sparse deep neural networks, 2021, arXiv:2104.08378.

A weight is looked at as a matrix of rows, one for each output, whose columns are the inputs.

Shapes: R rows, I inputs of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import torch
from pydantic import model_validator
from torch import Tensor

from lessen.core import settings
from lessen.core.ranges import Count
from lessen.operations.parts.allocation import top


@runtime_checkable
class Pattern(Protocol):
    """A settings object that chooses what is kept of a matrix."""

    @property
    def share(self) -> float | None:
        """The share that is kept whatever is asked; None where any share can be."""

    @property
    def by_rows(self) -> bool:
        """Whether rows are looked at one by one, so that it matters which axis is the inputs'."""

    def refuses(self, shape: Sequence[int]) -> str:
        """Why a weight of this shape (outputs, inputs, kernel) cannot have this pattern; empty where it can."""

    def columns(self, shape: Sequence[int]) -> Tensor | None:
        """The order of a row's inputs for this pattern, shape (I,); None: unchanged."""

    def mask(self, score_RI: Tensor, count: int) -> Tensor:
        """True where a weight stays, shape (R, I), on the CPU; about `count` of the highest scores."""


def pattern_mask(pattern: Pattern, score: Tensor, count: int) -> Tensor:
    """The mask of a weight of any shape (outputs, inputs, kernel) from its scores."""
    flat_RI = score.flatten(1) if score.ndim > 1 else score.unsqueeze(0)
    columns = pattern.columns(score.shape)
    if columns is None:
        return pattern.mask(flat_RI, count).view(score.shape)
    mask_RI = torch.empty(flat_RI.shape, dtype=torch.bool)
    mask_RI[:, columns] = pattern.mask(flat_RI[:, columns.to(score.device)], count)
    return mask_RI.view(score.shape)


def top_of_rows(score_RI: Tensor, count: int) -> Tensor:
    """A mask of exactly `count` highest scores in each row, on the CPU; of equal scores the earlier are kept.

    >>> top_of_rows(torch.tensor([[1.0, 3.0, 1.0], [0.0, 0.0, 5.0]]), 2)
    tensor([[ True,  True, False],
            [ True, False,  True]])
    """
    order_RI = score_RI.sort(dim=1, descending=True, stable=True).indices[:, :count].cpu()
    return torch.zeros(score_RI.shape, dtype=torch.bool).scatter_(1, order_RI, value=True)


@settings
class Anywhere:
    """Any weights of the layer: all of them compete."""

    @property
    def share(self) -> float | None:
        return None

    @property
    def by_rows(self) -> bool:
        return False

    def refuses(self, shape: Sequence[int]) -> str:
        return ""

    def columns(self, shape: Sequence[int]) -> Tensor | None:
        return None

    def mask(self, score_RI: Tensor, count: int) -> Tensor:
        """Exactly `count`."""
        return top(score_RI, count)


@settings
class PerRow:
    """As many weights in each output's row, rounded in each row; the inputs of one output compete."""

    @property
    def share(self) -> float | None:
        return None

    @property
    def by_rows(self) -> bool:
        return True

    def refuses(self, shape: Sequence[int]) -> str:
        return ""

    def columns(self, shape: Sequence[int]) -> Tensor | None:
        return None

    def mask(self, score_RI: Tensor, count: int) -> Tensor:
        """The same number in each row, at least one."""
        return top_of_rows(score_RI, max(1, round(count / len(score_RI))))


@settings
class NM:
    """Exactly n of every m consecutive inputs of each output; in a convolution, of m channels at one kernel place.

    Graphics processors multiply by 2:4 in hardware. No runtime for CPUs gains time by it.

    Args:
        n: How many stay.
        m: Of how many.

    >>> NM(n=2, m=4).mask(torch.tensor([[4.0, 1.0, 3.0, 2.0, 1.0, 1.0, 1.0, 1.0]]), 0)
    tensor([[ True, False,  True, False,  True,  True, False, False]])
    """

    n: Count = 2
    m: Count = 4

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.n > self.m:
            raise ValueError(f"n is {self.n}, more than m, which is {self.m}")
        return self

    @property
    def share(self) -> float | None:
        return self.n / self.m

    @property
    def by_rows(self) -> bool:
        return True

    def refuses(self, shape: Sequence[int]) -> str:
        rest = shape[1] % self.m
        return f"its {shape[1]} inputs cannot be cut into groups of {self.m}" if rest else ""

    def columns(self, shape: Sequence[int]) -> Tensor | None:
        kernel = math.prod(shape[2:])
        return None if kernel == 1 else torch.arange(shape[1] * kernel).view(shape[1], kernel).T.flatten()

    def mask(self, score_RI: Tensor, count: int) -> Tensor:
        """N of m, whatever `count` is."""
        return top_of_rows(score_RI.reshape(-1, self.m), self.n).view(score_RI.shape)
