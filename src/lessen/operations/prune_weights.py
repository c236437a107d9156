"""Pruning of single weights: the ones that matter least become zero and stay zero.

Han et al., Learning both weights and connections for efficient neural networks, NeurIPS 2015, arXiv:1506.02626.

What is pruned is a parameter that only multiplies: the weight of linear and convolution layers, and the packed
projections of attention. Exactly the asked number of weights is kept; of equal scores the earlier one is.
"""

from __future__ import annotations

import copy
import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, Context, Where, matches, settings
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.functional.shapes import wide
from lessen.operations.allocation import Allocation, Uniform, top
from lessen.operations.gradients import gradients
from lessen.operations.packed import pack, unpack
from lessen.operations.scores import Magnitude, Score
from lessen.surgery.attention import OpenAttention
from lessen.surgery.masks import mask_of, mask_parameter, owners, stored
from lessen.surgery.modules import get_module

_KINDS: dict[type[nn.Module], str] = {
    **dict.fromkeys((nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d), "weight"),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), "weight"),
    **dict.fromkeys((nn.MultiheadAttention, OpenAttention), "in_proj_weight"),
}


@settings
class PrunedWeights:
    """The plan of `PruneWeights`.

    Args:
        masks: The packed mask of each parameter.
        shapes: The shape of each parameter.
        left: What was left alone, and why.
    """

    masks: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    left: dict[str, str] = Field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network with masks on its parameters and zeros in them.

        Raises:
            PlanError: a parameter is missing, or of another shape.
        """
        network = copy.deepcopy(model)
        for name, text in self.masks.items():
            shape = self.shapes[name]
            path, _, last = name.rpartition(".")
            try:
                module = get_module(network, path)
            except NetworkError as error:
                raise PlanError(f"The plan does not belong to this network. {error}") from error
            tensor = getattr(module, last, None)
            if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
                found = tuple(tensor.shape) if isinstance(tensor, Tensor) else "no such parameter"
                raise PlanError(f"The plan does not belong to this network: {name} should be {shape}, found {found}.")
            mask = unpack(text, shape)
            for _, owner, its_name in owners(network, stored(module, last)):
                mask_parameter(owner, its_name, mask)
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each parameter."""
        rows: list[dict[str, Any]] = []
        for name, text in self.masks.items():
            shape = self.shapes[name]
            kept, total = int(unpack(text, shape).sum()), math.prod(shape)
            rows.append(
                {
                    "module": name,
                    "edit": "prune weights",
                    "before": f"{total} weights",
                    "after": f"{kept} weights ({100 * kept / total:.1f} %)",
                }
            )
        rows += [{"module": name, "edit": "left alone", "before": why, "after": ""} for name, why in self.left.items()]
        return rows


@settings
class PruneWeights:
    """Set the least important weights to zero, for good.

    Args:
        keep: The share of weights that stays.
        score: What a weight is worth.
        allocation: How the share is divided over the layers: the same in each, or by score over all.
        where: Which modules; None for all that have weights to prune.
        exclude: Which of these to leave alone.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    score: Score = Magnitude()
    allocation: Allocation = Uniform()
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / unstructured pruning",
        paper="arXiv:1506.02626; Taylor: arXiv:1906.10771",
        says="The weights with the lowest scores are zero, and stay zero through any training that follows.",
        costs="No time saved: dense kernels multiply by the zeros, in PyTorch, ONNX Runtime and OpenVINO alike. No "
        "byte saved either until the file is compressed. Training carries a mask of one byte a weight.",
        fails_when="Little is kept without training afterwards; with Global() and very little kept, thin layers would "
        "vanish (an error, not a silent collapse).",
        differs="Exactly the asked number is kept. A comparison with a threshold, as in much code, keeps more or "
        "fewer when scores are equal.",
    )

    @classmethod
    def neutral(cls) -> PruneWeights:
        return cls(keep=1.0)

    def plan(self, model: nn.Module, context: Context) -> PrunedWeights:
        """Decide which weights go.

        Raises:
            PlanError: a layer would lose all its weights, or the score needs what the context lacks.
        """
        chosen, left = self._candidates(model)
        scores = self._scores(model, chosen, context)
        counts = self.allocation.counts(scores, self.keep)
        empty = [name for name, count in counts.items() if count == 0]
        if empty:
            raise PlanError(
                f"Keeping {self.keep:g} of the weights would leave none in {', '.join(empty[:3])}"
                f"{', …' if len(empty) > 3 else ''}. Keep more, exclude them, or use allocation=Uniform()."
            )
        masks = {name: top(score.cpu(), counts[name]) for name, score in scores.items()}
        masks = {name: mask for name, mask in masks.items() if not bool(mask.all())}
        return PrunedWeights(
            masks={name: pack(mask) for name, mask in masks.items()},
            shapes={name: tuple(mask.shape) for name, mask in masks.items()},
            left=left,
        )

    def _scores(
        self, model: nn.Module, chosen: dict[str, tuple[nn.Module, str]], context: Context
    ) -> dict[str, Tensor]:
        """The score of each weight; what is already pruned scores below everything."""
        weights = {name: wide(getattr(module, last).detach()) for name, (module, last) in chosen.items()}
        if self.score.needs_gradient:
            count, scores = 0, {name: torch.zeros_like(weight) for name, weight in weights.items()}
            for found in gradients(model, {name: stored(*owner) for name, owner in chosen.items()}, context):
                count += 1
                for name, gradient in found.items():
                    scores[name] += self.score.finish(self.score.shares(weights[name], gradient))
            scores = {name: score / count for name, score in scores.items()}
        else:
            scores = {name: self.score.finish(self.score.shares(weight, None)) for name, weight in weights.items()}
        masks = {name: mask_of(*owner) for name, owner in chosen.items()}
        return {
            name: score if (mask := masks[name]) is None else score.masked_fill(~mask.kept, -math.inf)
            for name, score in scores.items()
        }

    def _candidates(self, model: nn.Module) -> tuple[dict[str, tuple[nn.Module, str]], dict[str, str]]:
        """The parameters to choose from, by name, and the reasons for those that are left alone."""
        chosen: dict[str, tuple[nn.Module, str]] = {}
        left: dict[str, str] = {}
        seen: list[Tensor] = []
        for path, module in model.named_modules():
            last = _prunable(module)
            if last is None or not matches(self.where, path, module):
                continue
            if self.exclude is not None and matches(self.exclude, path, module):
                continue
            tensor = stored(module, last)
            if any(tensor is other for other in seen):
                continue
            seen.append(tensor)
            name = f"{path}.{last}" if path else last
            other = [(at, owner) for at, owner, its in owners(model, tensor) if _prunable(owner) != its]
            if other:
                at, owner = other[0]
                left[name] = f"tied to {at}, a {type(owner).__name__}, which does not only multiply by it"
            else:
                chosen[name] = (module, last)
        if not chosen and not left and self.where is not None:
            close = did_you_mean(str(self.where), [path for path, module in model.named_modules() if _prunable(module)])
            raise PlanError(f"where={self.where!r} means no layer whose weights can be pruned; {close}")
        return chosen, left


def _prunable(module: nn.Module) -> str | None:
    """The name of the parameter of this module that only multiplies, or None."""
    for kind, name in _KINDS.items():
        if isinstance(module, kind) and getattr(module, name) is not None:
            return name
    return None
