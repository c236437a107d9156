"""How several nodes become one virtual teacher.

Mean of logits: You et al., Learning from multiple teacher networks, KDD 2017. Learned gate: Lan et al., Knowledge
distillation by on-the-fly native ensemble, NeurIPS 2018, arXiv:1806.04606, section 3.2.

Shapes: M members, N examples, outputs (N, ...).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lessen.core.errors import ShapeError
from lessen.core.settings import settings
from lessen.graph.head import MeanOverPositions
from lessen.surgery.taps import Tap, Taps, as_tap, taps


@runtime_checkable
class Members(Protocol):
    """A settings object that builds, from the shape of the members' outputs, a module `(outputs) -> output`.

    One that reads its members elsewhere has `taps`, an address: it then gets, in place of outputs, what each member has
    there, and a tuple of several where they are `Taps`; shapes likewise.

    One whose module has weights of its own says `learns = True` on its class: its ensemble then learns, also over
    members that are frozen.
    """

    def build(self, shapes: Sequence[torch.Size], /) -> nn.Module: ...


@settings
class Mean:
    """The mean of the members' outputs (of logits: the normalised geometric mean of their probabilities)."""

    def build(self, shapes: Sequence[torch.Size], /) -> nn.Module:
        return _Weights([1 / len(shapes)] * len(shapes), shapes)


@settings
class Weighted:
    """The weighted mean of the members' outputs; weights are divided by their sum."""

    weights: tuple[float, ...]

    def build(self, shapes: Sequence[torch.Size], /) -> nn.Module:
        if len(self.weights) != len(shapes):
            raise ShapeError(f"Weighted has {len(self.weights)} weights for {len(shapes)} members. Give one for each.")
        total = sum(self.weights)
        return _Weights([weight / total for weight in self.weights], shapes)


@settings
class LearnedGate:
    """A mean whose weights are chosen for each example by a learned linear layer on the members' outputs.

    The gate reads the outputs without gradient; it learns from the edges that arrive at the ensemble, and starts as
    the mean.
    """

    learns: ClassVar[bool] = True

    def build(self, shapes: Sequence[torch.Size], /) -> nn.Module:
        return _Gate(shapes)


@settings
class MeanOf:
    """The mean of the members' values at a tap, as of several teachers' features.

    Args:
        tap: Where each member is read; a string is the path of a module's output.
    """

    tap: Tap | str

    @property
    def taps(self) -> Tap:
        return as_tap(self.tap)

    def build(self, shapes: Sequence[torch.Size], /) -> nn.Module:
        return _Weights([1 / len(shapes)] * len(shapes), shapes)


@settings
class FeatureGate:
    """A mean of the members' outputs whose weights are chosen for each example by what the members have at a tap.

    Each member's features, averaged over positions, give it a score through a linear layer of its own; the weights are
    the softmax of the scores. The features are read without gradient, may differ in width, and the start is the mean.

    Args:
        tap: Where each member is read: a vector (N, C), tokens (N, T, C) or a grid (N, C, H, W).
    """

    tap: Tap | str

    learns: ClassVar[bool] = True

    @property
    def taps(self) -> Taps:
        return taps("", self.tap)

    def build(self, shapes: Sequence[tuple[torch.Size, torch.Size]], /) -> nn.Module:
        return _FeatureGate(shapes)


class _Weights(nn.Module):
    def __init__(self, weights: Sequence[float], shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        _same(shapes)
        self.weights = list(weights)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        total = outputs[0] * self.weights[0]
        for output, weight in zip(outputs[1:], self.weights[1:], strict=True):
            total = total + output * weight
        return total


class _Gate(nn.Module):
    def __init__(self, shapes: Sequence[torch.Size]) -> None:
        super().__init__()
        _same(shapes)
        self.scores = nn.Linear(sum(shape[1:].numel() for shape in shapes), len(shapes))
        nn.init.zeros_(self.scores.weight)
        nn.init.zeros_(self.scores.bias)

    def forward(self, outputs: Sequence[Tensor]) -> Tensor:
        seen_NF = torch.cat([output.detach().flatten(1) for output in outputs], dim=1)
        weights_NM = self.scores(seen_NF).softmax(1)
        stacked = torch.stack(list(outputs), dim=1)
        mixed: Tensor = (stacked * weights_NM.reshape(*weights_NM.shape, *[1] * (stacked.ndim - 2))).sum(1)
        return mixed


class _FeatureGate(nn.Module):
    def __init__(self, shapes: Sequence[tuple[torch.Size, torch.Size]]) -> None:
        super().__init__()
        _same([output for output, _ in shapes])
        self.pool = MeanOverPositions()
        self.scores = nn.ModuleList(nn.Linear(shape[2 if len(shape) == 3 else 1], 1) for _, shape in shapes)
        for weight in self.scores.parameters():
            nn.init.zeros_(weight)

    def forward(self, values: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        scores = [score(self.pool(seen.detach())) for score, (_, seen) in zip(self.scores, values, strict=True)]
        weights_NM = torch.cat(scores, dim=1).softmax(1)
        stacked = torch.stack([output for output, _ in values], dim=1)
        mixed: Tensor = (stacked * weights_NM.reshape(*weights_NM.shape, *[1] * (stacked.ndim - 2))).sum(1)
        return mixed


def _same(shapes: Sequence[torch.Size]) -> None:
    if len(set(shapes)) != 1:
        listed = " and ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ShapeError(f"The members of an ensemble give different shapes: {listed}. They must give the same.")
