"""Fisher information: how much the loss of each single example would change without a channel.

Theis et al., Faster gaze prediction with dense networks and Fisher pruning, 2018, arXiv:1801.05787; over coupled
groups: Liu et al., Group Fisher pruning, ICML 2021, arXiv:2108.00708.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, settings
from lessen.core.data import map_inputs
from lessen.operations.parts.scores import Taylor
from lessen.operations.prune_channels.scores import group_figures
from lessen.surgery.coupling import Coupling


@settings
class Fisher:
    """Channels without which the loss of single examples changes matter: sum over examples of (sum of w * dL/dw) ** 2.

    Taylor's score of batches of one: what one example gains cannot cancel what another loses. It needs a backward pass
    for each example.
    """

    comparable: ClassVar[bool] = True

    def figures(self, model: nn.Module, coupling: Coupling, context: Context) -> dict[str, Tensor]:
        """The mean over examples.

        Raises:
            PlanError: the context has no loss or no labelled batches.
        """
        alone = [one for batch in context.calibration for one in _one_by_one(batch)]
        summed = group_figures(Taylor(joint=True), model, coupling, replace(context, calibration=alone))
        return {name: figure / max(1, len(alone)) for name, figure in summed.items()}


def _one_by_one(batch: Batch) -> Iterator[Batch]:
    for i in torch.arange(len(batch)).split(1):
        labels = None if batch.labels is None else batch.labels[i]
        yield Batch(map_inputs(batch.inputs, lambda value, i=i: value[i]), batch.index[i], labels)
