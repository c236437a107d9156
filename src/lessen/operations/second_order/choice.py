"""Which weights of a matrix stay: a number of them, in a pattern, among those that are there.

Shapes: R rows, I inputs.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lessen.operations.parts.pattern import NM, Pattern, PerRow


@dataclass(frozen=True, kw_only=True, eq=False)
class Choice:
    """What is asked of a method: exactly so many weights of a matrix, in a pattern.

    Args:
        pattern: Which weights may stay together.
        count: How many stay.
        alive: False for what was pruned before, boolean (R, I); it stays pruned.
    """

    pattern: Pattern
    count: int
    alive: Tensor

    def among(self, score_RI: Tensor) -> Tensor:
        """The mask with the highest scores, boolean (R, I)."""
        score_RI = score_RI.masked_fill(~self.alive, -math.inf)
        return self.pattern.mask(score_RI, self.count).to(score_RI.device) & self.alive

    def among_columns(self, score_RC: Tensor, first: int) -> Tensor:
        """The same where only some columns, from `first` on, are looked at: they keep their part of the number.

        Parts are rounded so that they sum to the whole: with `count` of A in all, of the first a are kept
        round(count * a / A).
        """
        part = slice(first, first + score_RC.shape[1])
        alive_RC = self.alive[:, part]
        score_RC = score_RC.masked_fill(~alive_RC, -math.inf)
        if isinstance(self.pattern, NM):
            return self.pattern.mask(score_RC, 0).to(score_RC.device) & alive_RC
        if isinstance(self.pattern, PerRow):
            each = max(1, round(self.count / len(score_RC)))
            before_R, after_R, all_R = (
                self.alive[:, :end].sum(1).double() for end in (first, part.stop, self.alive.shape[1])
            )
            share_R = each / all_R.clamp(min=1)
            count_R = (share_R * after_R).round() - (share_R * before_R).round()
            rank_RC = score_RC.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            return (rank_RC < count_R.unsqueeze(1)) & alive_RC
        before, after, whole = (int(self.alive[:, :end].sum()) for end in (first, part.stop, self.alive.shape[1]))
        count = round(self.count * after / max(1, whole)) - round(self.count * before / max(1, whole))
        return self.pattern.mask(score_RC, count).to(score_RC.device) & alive_RC

    @property
    def group(self) -> int | None:
        """Of how many consecutive inputs the pattern speaks; None where it does not."""
        return self.pattern.m if isinstance(self.pattern, NM) else None


def split_count(count: int, parts: int) -> list[int]:
    """A number in so many parts that are equal up to rounding.

    >>> split_count(7, 3)
    [2, 3, 2]
    """
    ends = [round(count * number / parts) for number in range(parts + 1)]
    return [after - before for before, after in itertools.pairwise(ends)]


def kept_of(weight: Tensor, mask: Tensor | None) -> Tensor:
    """What of a weight is not pruned yet."""
    return torch.ones_like(weight, dtype=torch.bool) if mask is None else mask.to(weight.device)
