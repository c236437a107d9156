"""Bridges (projectors): what maps a student's tap to a teacher's when their shapes differ.

One bridge for each mismatch (channels, resolution, tokens and grids, width, positions and vectors), and one that puts
together what a pair of shapes needs. Regressors for hints: Romero et al., FitNets, ICLR 2015, arXiv:1412.6550.

Shapes, by their number of axes: 2 a vector (N, C); 3 tokens (N, T, C); 4 a grid (N, C, H, W).
A bridge with weights trains with the edge and is never part of the student that is shipped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from lessen.core import Bridge, Card, settings
from lessen.core.errors import ShapeError
from lessen.knowledge.axes.reshaping import AttentionPool, Pool, Resize, ResizeTokens, ToGrid, ToTokens

_ROW = "knowledge / bridges"
Shape = Sequence[int]
_MOST_PREFIX = 5  # a class token and four registers; more is no longer a grid with a prefix


@settings
class ChannelBridge:
    """A projector for grids: a 1 x 1 convolution from the student's channels to the teacher's.

    Args:
        normalize: Add a batch norm after it, as most released code does. Leave it out if batches are small, or if
            several processes must agree without synchronised statistics.
    """

    normalize: bool = True

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1412.6550",
        says="A learned linear map of channels, the same at every position.",
        costs="C x C' weights while training, nothing in the shipped model.",
        fails_when="It is so wide that it does the student's work: the loss falls and the student learns nothing.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        _require("ChannelBridge", student_shape, teacher_shape, [(4, 4)])
        before, after = student_shape[1], teacher_shape[1]
        if before == after:
            return nn.Identity()
        convolution = nn.Conv2d(before, after, 1, bias=not self.normalize)
        return nn.Sequential(convolution, nn.BatchNorm2d(after)) if self.normalize else convolution


@settings
class WidthBridge:
    """Projector for vectors and tokens: a linear layer on the last axis, from the student's width to the teacher's."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="TinyBERT, arXiv:1909.10351",
        says="A learned linear map of features.",
        costs="C x C' weights while training, nothing in the shipped model.",
        fails_when="It is so wide that it does the student's work: the loss falls and the student learns nothing.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        _require("WidthBridge", student_shape, teacher_shape, [(2, 2), (3, 3)])
        before, after = student_shape[-1], teacher_shape[-1]
        return nn.Identity() if before == after else nn.Linear(before, after)


@settings
class ResolutionBridge:
    """Resize to the teacher's grid, by averaging down or interpolating up; channels stay as they are."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1612.03928",
        says="The student's map at the teacher's resolution.",
        costs="No weights.",
        fails_when="The student's grid is much coarser: interpolation invents the detail that is compared.",
        differs="Works on the student's side alone; most code pools whichever map is larger.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        _require("ResolutionBridge", student_shape, teacher_shape, [(4, 4)])
        if tuple(student_shape[2:]) == tuple(teacher_shape[2:]):
            return nn.Identity()
        return Resize(teacher_shape[2], teacher_shape[3])


@settings
class TokenBridge:
    """Convert between tokens and a grid, or between different numbers of tokens; the width stays as it is.

    Args:
        prefix: Number of tokens before those of the grid (a class token: 1). None infers it from the other side's grid
            if that fits; otherwise from the largest square, which may leave at most five tokens before it.
    """

    prefix: Annotated[int, Field(ge=0)] | None = None

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Vision transformer, arXiv:2010.11929 (tokens are a grid read row by row)",
        says="Tokens are arranged as the grid they came from, or the other way; resized if their counts differ.",
        costs="No weights.",
        fails_when="Tokens are not a grid read row by row (text, shuffled or dropped tokens).",
        differs="If the student has no class token, the mean of its grid is used instead.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        _require("TokenBridge", student_shape, teacher_shape, [(3, 3), (3, 4), (4, 3)])
        if len(student_shape) == 4:
            after = self._layout(teacher_shape[1], student_shape[2:], student_shape, teacher_shape)
            return _chain(ResolutionBridge().build(student_shape, (1, 1, *after[1:])), ToTokens(after[0]))
        if len(teacher_shape) == 4:
            before = self._layout(student_shape[1], teacher_shape[2:], student_shape, teacher_shape)
            grid = (1, 1, *before[1:])
            return _chain(ToGrid(before[1], before[2]), ResolutionBridge().build(grid, teacher_shape))
        if student_shape[1] == teacher_shape[1]:
            return nn.Identity()
        before = self._layout(student_shape[1], (), student_shape, teacher_shape)
        return ResizeTokens(before, self._layout(teacher_shape[1], (), student_shape, teacher_shape))

    def _layout(self, tokens: int, grid: Shape, student: Shape, teacher: Shape) -> tuple[int, int, int]:
        """Prefix, height and width of so many tokens; the grid of the other side is taken if it fits them."""
        positions = math.prod(grid) if grid else 0
        if grid and (tokens - positions == self.prefix or (self.prefix is None and tokens - positions in (0, 1))):
            return tokens - positions, grid[0], grid[1]
        side = math.isqrt(tokens if self.prefix is None else max(tokens - self.prefix, 0))
        prefix = tokens - side * side
        if side == 0 or (prefix > _MOST_PREFIX if self.prefix is None else prefix != self.prefix):
            raise ShapeError(
                f"TokenBridge(prefix={self.prefix}) cannot lay {tokens} tokens out as a square grid behind a prefix: "
                f"the student has {tuple(student)} and the teacher {tuple(teacher)}. "
                "Set `prefix` so that a square is left."
            )
        return prefix, side, side


@settings
class PoolBridge:
    """The mean over the positions of a grid or of tokens, to compare with a vector."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Lin et al., Network in network, arXiv:1312.4400 (global average pooling)",
        says="The average of the student's features over all positions.",
        costs="No weights.",
        fails_when="The teacher's vector describes one place, as in detection.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        _require("PoolBridge", student_shape, teacher_shape, [(3, 2), (4, 2)])
        return Pool()


@settings
class AttentionPoolBridge:
    """A weighted mean over positions by a learned query, to compare with a vector; it starts as the plain mean."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Lee et al., Set transformer, arXiv:1810.00825, section 3.2",
        says="The student's features at the positions that matter for the teacher's vector.",
        costs="C weights while training, nothing in the shipped model.",
        fails_when="The teacher's vector is a plain mean: PoolBridge computes that without weights.",
        differs="One query and one head, and no maps of keys and values: the positions are averaged as they are.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        _require("AttentionPoolBridge", student_shape, teacher_shape, [(3, 2), (4, 2)])
        return AttentionPool(student_shape[1 if len(student_shape) == 4 else 2])


@settings
class AutoBridge:
    """The bridges (projectors) that the two shapes need: none, one, or several in a row.

    Args:
        channels: The bridge for the channels of grids.
        width: The bridge for the width of vectors and tokens.
        tokens: How tokens are laid out.
        pool: How positions become a vector.
    """

    channels: ChannelBridge = ChannelBridge()
    width: WidthBridge = WidthBridge()
    tokens: TokenBridge = TokenBridge()
    pool: PoolBridge | AttentionPoolBridge = PoolBridge()

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1412.6550",
        says="Pools or interpolates, arranges tokens as a grid, and maps channels, in the cheapest order.",
        costs="The cost of its parts.",
        fails_when="The features are sequences (N, C, L) of one-dimensional convolutions: any tensor with three axes "
        "is treated as tokens.",
    )

    def build(self, student_shape: Shape, teacher_shape: Shape) -> nn.Module:
        before, after = tuple(student_shape), tuple(teacher_shape)
        if before[1:] == after[1:]:
            return nn.Identity()
        kinds = (len(before), len(after))
        _require("AutoBridge", before, after, [(2, 2), (3, 3), (4, 4), (3, 4), (4, 3), (3, 2), (4, 2)])
        if kinds == (4, 4):
            channels, resolution = self.channels.build(before, after), ResolutionBridge().build(before, after)
            smaller = math.prod(after[2:]) < math.prod(before[2:])
            return _chain(*((resolution, channels) if smaller else (channels, resolution)))
        if kinds == (3, 4):
            tokens = self.tokens.build(before, after)
            return _chain(tokens, self.channels.build((before[0], before[2], *after[2:]), after))
        if kinds == (4, 3):
            tokens = self.tokens.build(before, after)
            return _chain(tokens, self.width.build((before[0], after[1], before[1]), after))
        if kinds == (3, 3):
            return _chain(self.tokens.build(before, after), self.width.build(before, after))
        if kinds == (2, 2):
            return self.width.build(before, after)
        pooled = (before[0], before[1 if kinds[0] == 4 else 2])
        return _chain(self.pool.build(before, pooled), self.width.build(pooled, after))


def bridge_for(student_shape: Shape, teacher_shape: Shape, bridge: Bridge | None = None) -> nn.Module:
    """The module of a bridge, by default of `AutoBridge()`."""
    return (bridge or AutoBridge()).build(student_shape, teacher_shape)


def _chain(*modules: nn.Module) -> nn.Module:
    """The modules in a row, without those that do nothing."""
    doing = [module for module in modules if not isinstance(module, nn.Identity)]
    if not doing:
        return nn.Identity()
    return doing[0] if len(doing) == 1 else nn.Sequential(*doing)


def _require(name: str, student: Shape, teacher: Shape, kinds: list[tuple[int, int]]) -> None:
    if (len(student), len(teacher)) not in kinds:
        words = {2: "a vector (N, C)", 3: "tokens (N, T, C)", 4: "a grid (N, C, H, W)"}
        known = "; ".join(f"{words[a]} to {words[b]}" for a, b in kinds)
        raise ShapeError(
            f"{name} cannot map the student's {tuple(student)} to the teacher's {tuple(teacher)}. It maps {known}. Tap "
            "other layers, or put a module of your own there."
        )
