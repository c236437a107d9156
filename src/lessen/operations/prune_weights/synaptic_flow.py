"""Synaptic flow: keep the paths through a network, without looking at any data (SynFlow).

Tanaka, Kunin, Yamins & Ganguli, Pruning neural networks without any data by iteratively conserving synaptic flow,
NeurIPS 2020, arXiv:2006.05467.

With all parameters replaced by their absolute values and ones as input, R is the sum of the outputs, and a weight is
worth (dR/dw) w: the share of R that flows through it. What flows into a layer flows out of it, so the sums over layers
are equal, and thin layers have expensive weights. It is computed again in many rounds: in one round it would be a bad
magnitude, and empty whole layers.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, Context, Inputs, settings
from lessen.core.data import call, map_inputs
from lessen.operations.parts.allocation import Allocation, top
from lessen.operations.prune_weights.candidates import Weights
from lessen.operations.prune_weights.scoring import without_pruned
from lessen.operations.prune_weights.working_copy import gradient, working_copy
from lessen.surgery.calls import floating


@settings
class SynapticFlow:
    """Weights matter if much signal flows through them when the input is all ones. For networks before training.

    Needs no data. Use it with `allocation=Global()`, as in the paper.

    Args:
        rounds: Number of rounds; each removes the same share of the remaining weights.
    """

    rounds: Annotated[int, Field(ge=1)] = 100

    card: ClassVar[Card] = Card(
        row="operations / scores at initialisation",
        paper="SynFlow, arXiv:2006.05467",
        says="Paths through the network are kept, so that no layer becomes empty.",
        costs="One pass forward and back of a single example per round, in float64.",
        fails_when="Activations do not pass positive values unchanged (softmax, sigmoid). Like all scores at "
        "initialisation, it is worse than magnitude after training (arXiv:2009.08576).",
        differs="Absolute values of parameters only: released code also takes them of batch-norm statistics, and "
        "changes parameters that are 0 when it restores signs. Nothing needs restoring here, because all work "
        "is on a copy.",
    )

    def over(
        self, model: nn.Module, chosen: Weights, context: Context, *, keep: float, allocation: Allocation
    ) -> dict[str, Tensor]:
        """(dR/dw) w for each weight after the rounds before the last; minus infinity for what has gone in them."""
        own, weights = working_copy(model, chosen, context)
        own.double()
        ones = _ones(context.inputs, context)
        with torch.no_grad():
            for parameter in own.parameters():
                parameter.abs_()
        gone = {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in weights.items()}
        for round_ in range(1, self.rounds + 1):
            scores = {
                name: without_pruned(score.masked_fill(gone[name], -math.inf), *chosen[name])
                for name, score in flow(own, weights, ones).items()
            }
            if round_ == self.rounds:
                break
            counts = allocation.counts(scores, keep ** (round_ / self.rounds))
            with torch.no_grad():
                for name, score in scores.items():
                    gone[name] = ~top(score, counts[name]).to(score.device)
                    weights[name].masked_fill_(gone[name], 0.0)
        return scores


def flow(own: nn.Module, weights: dict[str, nn.Parameter], ones: Inputs) -> dict[str, Tensor]:
    """(dR/dw) w of each weight, where R is the sum of the outputs for ones; the parameters must not be negative."""
    total = torch.stack([output.sum() for output in floating(call(own, ones))]).sum()
    found = gradient(total, weights)
    return {name: part * weights[name].detach() for name, part in found.items()}


def _ones(inputs: Inputs, context: Context) -> Inputs:
    """One example of ones; what is no floating number, as tokens, stays what it is."""

    def one(value: Tensor) -> Tensor:
        first = value[:1].to(context.device)
        return torch.ones_like(first, dtype=torch.float64) if first.is_floating_point() else first

    return map_inputs(inputs, one)
