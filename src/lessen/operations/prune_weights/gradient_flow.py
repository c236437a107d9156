"""Gradient signal preservation: keep the weights without which an untrained network would learn more slowly (GraSP).

Wang, Zhang & Grosse, Picking winning tickets before training by preserving gradient flow, ICLR 2020, arXiv:2002.07376.

A small step of gradient descent lowers the loss by the squared norm of the gradient g. Taking a weight w away changes
that, to first order, by -2 w (H g), with the Hessian H; a weight is worth w (H g), with its sign: what has the lowest
worth goes, for without it the gradient is the largest.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lessen.core import Card, Context, settings
from lessen.operations.parts.allocation import Allocation
from lessen.operations.prune_weights.candidates import Weights
from lessen.operations.prune_weights.working_copy import gradient, losses, working_copy


@settings
class GradientFlow:
    """Weights matter if removing them would reduce the norm of the gradient. For networks before training.

    Use it with `allocation=Global()`, as in the paper.

    Args:
        temperature: Divides the outputs before the loss, so that the softmax is not saturated.
    """

    temperature: Annotated[float, Field(gt=0)] = 200.0

    card: ClassVar[Card] = Card(
        row="operations / scores at initialisation",
        paper="GraSP, arXiv:2002.07376",
        says="The pruned network should still learn fast.",
        costs="Two passes over the calibration examples, the second through the gradient.",
        fails_when="Many weights are kept: it is made for 90 % zeros and more. Like all scores at initialisation, it "
        "is worse than magnitude after training (arXiv:2009.08576).",
        differs="The gradient and its change are those of all calibration examples; released code mixes halves of "
        "batches.",
    )

    def over(
        self, model: nn.Module, chosen: Weights, context: Context, *, keep: float, allocation: Allocation
    ) -> dict[str, Tensor]:
        """The worth w (H g) of each weight."""
        own, weights = working_copy(model, chosen, context)
        # The fused kernels of attention have no second derivative.
        with sdpa_kernel(SDPBackend.MATH):
            return self._worths(own, weights, context)

    def _worths(self, own: nn.Module, weights: dict[str, nn.Parameter], context: Context) -> dict[str, Tensor]:
        flow = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for loss, share in losses(own, context, temperature=self.temperature):
            for name, part in gradient(loss, weights).items():
                flow[name] += share * part
        product = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for loss, share in losses(own, context, temperature=self.temperature):
            along = sum((part * flow[name]).sum() for name, part in gradient(loss, weights, again=True).items())
            assert isinstance(along, Tensor)
            if not along.requires_grad:  # a loss that is linear in the weights has no Hessian
                continue
            for name, part in gradient(along, weights).items():
                product[name] += share * part
        return {name: weight.detach() * product[name] for name, weight in weights.items()}
