"""Connection sensitivity: how much the loss of an untrained network depends on each connection (SNIP).

Lee, Ajanthan & Torr, SNIP: single-shot network pruning based on connection sensitivity, ICLR 2019, arXiv:1810.02340.

With a factor c = 1 on every weight w, |dL/dc| = |w dL/dw|, as a share of the sum over the network.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lessen.core import Card, Context, settings
from lessen.operations.parts.allocation import Allocation
from lessen.operations.prune_weights.candidates import Weights
from lessen.operations.prune_weights.working_copy import gradient, losses, working_copy


@settings
class ConnectionSensitivity:
    """Weights matter if the loss changes when they are scaled: |w dL/dw|. For networks before training.

    Use it with `allocation=Global()`, as in the paper.
    """

    card: ClassVar[Card] = Card(
        row="operations / scores at initialisation",
        paper="SNIP, arXiv:1810.02340",
        says="A single gradient shows which connections an untrained network needs.",
        costs="One pass forward and back over the calibration examples.",
        fails_when="Compared with magnitude after training: every score at initialisation is worse, and shuffling its "
        "masks within layers does not hurt (arXiv:2009.08576). Use Shuffled() as the control.",
        differs="The gradient is that of the mean loss over all calibration examples, not of one batch.",
    )

    def over(
        self, model: nn.Module, chosen: Weights, context: Context, *, keep: float, allocation: Allocation
    ) -> dict[str, Tensor]:
        """|w dL/dw| as a share of the sum, for each weight."""
        own, weights = working_copy(model, chosen, context)
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for loss, share in losses(own, context):
            for name, part in gradient(loss, weights).items():
                sums[name] += share * part
        scores = {name: (weight.detach() * sums[name]).abs() for name, weight in weights.items()}
        total = sum(float(score.double().sum()) for score in scores.values()) or 1.0
        return {name: score / total for name, score in scores.items()}
