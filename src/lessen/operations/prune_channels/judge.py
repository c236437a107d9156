"""What a pruned network loses before it is trained again, told apart by fresh statistics.

Cut channels shift what batch normalisations expect, and networks of very different worth all answer at random. With the
statistics taken anew they tell themselves apart, in the order in which training leaves them: Li et al., EagleEye, ECCV
2020, arXiv:2007.02491, section 3.3.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lessen.core.contracts import Context
from lessen.core.data import call
from lessen.core.errors import PlanError


def check_judge(context: Context) -> None:
    """Whether networks can be judged, before anything long starts.

    Raises:
        PlanError: there is no loss, no calibration batch, or a batch without labels.
    """
    lacks = (
        "a loss"
        if context.loss is None
        else "calibration batches"
        if not context.calibration
        else "labels in every calibration batch"
        if any(batch.labels is None for batch in context.calibration)
        else None
    )
    if lacks:
        raise PlanError(f"Knapsack(candidates=...) judges networks by their loss; the context has not {lacks}.")


@torch.no_grad()
def adapted_loss(network: nn.Module, context: Context) -> float:
    """The mean loss on the calibration examples, with the statistics of batch normalisations taken anew from them.

    Args:
        network: Changed: in eval mode, with the new statistics.
        context: Its `loss` and `calibration` are used.
    """
    network.to(context.device).eval()
    norms = [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
    batches = [batch.to(context.device) for batch in context.calibration]
    if norms:
        usual = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a mean over the batches
            norm.train()
        for batch in batches:
            call(network, batch.inputs)
        for norm, momentum in zip(norms, usual, strict=True):
            norm.momentum = momentum
            norm.eval()
    total, count = 0.0, 0
    for batch in batches:
        assert batch.labels is not None
        total += float(context.losses(call(network, batch.inputs), batch.labels).sum())
        count += len(batch)
    return total / count
