"""Sparse from the first step, while all weights learn: the pattern is chosen again after each step.

Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch (SR-STE), ICLR 2021,
arXiv:2102.04010.

Forward, the largest weights of a pattern count; backward, the gradient reaches all weights (straight through), and what
does not count is drawn towards zero, so that the pattern settles: with g the gradient and m the mask,

    w <- w - rate * (g + pull * (1 - m) * w)
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.core.where import Where
from lessen.operations.parts.pattern import NM, Pattern, pattern_mask
from lessen.operations.prune_weights import Weights, check_share, fitting
from lessen.sparsify.contract import MaskMover, Sparsifier
from lessen.surgery.forms.mask import Mask
from lessen.surgery.forms.registering import stored


@settings
class StraightThrough:
    """Train with a pattern of zeros, such as 2 of every 4, from the first step on.

    Args:
        keep: The share of weights that stays.
        pattern: Which sets of weights of a layer may be kept; the largest are.
        pull: How strongly masked weights are pulled to zero.
        where: Which modules; None for all whose weights can have the pattern.
        exclude: Which of these to leave alone.
    """

    keep: Annotated[float, Field(gt=0, le=1)] = 0.5
    pattern: Pattern = NM(n=2, m=4)
    pull: Annotated[float, Field(ge=0)] = 2e-4
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / sparse training",
        paper="arXiv:2102.04010",
        says="The network learns with the zeros that it will ship with, and their places can still change.",
        costs="One sort of the weights per step. No time is saved on a CPU: 2:4 speeds up GPUs only.",
        fails_when="The penalty is so weak that the pattern never settles, or so strong that it settles at once.",
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        check_share(self.pattern, self.keep)
        return self

    def check(self, model: nn.Module, /) -> None:
        self.weights(model)

    def start(self, model: nn.Module, /) -> Sparsifier:
        return _Straight(self, model)

    def weights(self, model: nn.Module) -> Weights:
        """The weights that get the pattern.

        Raises:
            PlanError: there are none.
        """
        chosen, left = fitting(model, self.where, self.exclude, self.pattern)
        if not chosen:
            why = "; ".join(f"{name}: {reason}" for name, reason in left.items())
            raise PlanError(f"StraightThrough finds no weights to which {self.pattern!r} can apply. {why}".rstrip())
        return chosen


class _Straight(MaskMover):
    """`StraightThrough` on one network."""

    def __init__(self, settings: StraightThrough, model: nn.Module) -> None:
        super().__init__(model, settings.weights(model))
        self.settings = settings
        self._hooks = [mask.register_forward_hook(to_all) for name in self.weights for mask in self.masks(name)]
        self._choose()

    def before_step(self, progress: float, rate: float) -> None:
        with torch.no_grad():
            for name, owner in self.weights.items():
                weight = stored(*owner)
                if weight.grad is not None:
                    weight.grad.add_(weight * ~self.kept(name), alpha=self.settings.pull)

    def after_step(self, progress: float, rate: float) -> None:
        self._choose()

    def close(self) -> None:
        for hook in self._hooks:
            hook.remove()
        super().close()

    @torch.no_grad()
    def _choose(self) -> None:
        for name, owner in self.weights.items():
            weight = stored(*owner)
            score = weight.abs().masked_fill(~self.before(name), -torch.inf)
            self.move(name, pattern_mask(self.settings.pattern, score, round(self.settings.keep * weight.numel())))


def to_all(mask: Mask, given: tuple[Any, ...], output: Tensor) -> Tensor | None:
    """A hook on a mask that lets the gradient of what is masked pass as well."""
    tensor = given[0]
    return output + (tensor - tensor.detach()) * ~mask.kept if torch.is_grad_enabled() else None
