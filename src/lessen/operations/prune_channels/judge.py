"""What a pruned network loses, before it is trained again for good.

Cut channels shift what batch normalisations expect, and networks of very different worth all answer at random. With the
statistics taken anew they tell themselves apart (Li et al., EagleEye, ECCV 2020, arXiv:2007.02491, section 3.3). Where
so much goes that they still answer at random, a few steps of training tell more (Yang et al., NetAdapt, ECCV 2018,
arXiv:1804.03230, section 3).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lessen.core.contracts import Context
from lessen.core.data import Batch, call
from lessen.core.errors import DivergedError, PlanError
from lessen.core.seeds import derive
from lessen.optim import Adam
from lessen.surgery.copying import copy_network

RATES = (3e-3, 1e-3, 3e-4)
"""Of Adam in the few steps, at the first; it falls to nothing along a line.

At a rate that stays, the same network differed by a tenth from one order of the batches to another. Where three
quarters of the time went, networks came in the order of a whole training at the first of these rates, where half went
and layers were fitted again at the last: each time that at which they lost least (`benchmarks/structured`).
"""


def check_judge(model: nn.Module, context: Context, *, steps: int) -> None:
    """Whether networks can be judged, before anything long starts.

    Raises:
        PlanError: there is no loss, no calibration batch, a batch without labels, one of a single example where there
            are batch normalisations, or one batch only where networks are trained.
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
    if _norms(model) and min(map(len, context.calibration)) < 2:
        raise PlanError(
            "Knapsack(candidates=...) takes the statistics of batch normalisations from calibration batches, and one "
            "of them has a single example. Give batches of two or more."
        )
    if steps and len(context.calibration) < 2:
        raise PlanError(
            "Knapsack(steps=...) trains networks on some of the calibration batches and judges them on the others, and "
            "there is one batch only. Give several, or steps=0."
        )


class Judge:
    """What pruned networks lose: after a few steps, or with new statistics alone.

    The first network is trained at each of `RATES`; the others at that at which it lost least.

    Args:
        context: Its `loss`, `calibration` and `seed` are used.
        steps: For how many batches a network is trained before. With 0, statistics are taken anew.
    """

    def __init__(self, context: Context, steps: int) -> None:
        self.context, self.steps = context, steps
        self.rate: float | None = None

    def __call__(self, candidate: Any, build: Callable[[], nn.Module]) -> float:
        """The mean loss of a candidate; infinity where it is not a finite number, or where training diverges.

        Args:
            candidate: JSON data that tells it from others.
            build: Makes its network, which is changed; not called for a candidate that an interrupted run has judged.
        """
        if not self.steps:
            return self.context.judge([candidate], lambda: adapted_loss(build(), self.context))
        if self.rate is not None:
            return self._trained(candidate, build, self.rate)
        network = functools.cache(build)
        found = {rate: self._trained(candidate, lambda: copy_network(network()), rate) for rate in RATES}
        self.rate = min(found, key=lambda rate: found[rate])
        return found[self.rate]

    def _trained(self, candidate: Any, build: Callable[[], nn.Module], rate: float) -> float:
        return self.context.judge(
            [candidate, self.steps, rate], lambda: trained_loss(build(), self.context, self.steps, rate)
        )


def trained_loss(network: nn.Module, context: Context, steps: int, rate: float) -> float:
    """The mean loss on the last quarter of the calibration batches after a few steps of training on the others.

    Args:
        network: Changed: trained, in eval mode.
        context: Its `loss`, `calibration` and `seed` are used.
        steps: How many, one batch each.
        rate: The learning rate of the first step.

    Returns:
        The loss; infinity if the training diverges.
    """
    network.to(context.device).train().requires_grad_(True)
    batches = [batch.to(context.device) for batch in context.calibration]
    first = len(batches) - max(1, len(batches) // 4)
    draw = torch.Generator().manual_seed(derive(context.seed, "judge"))
    order: list[int] = []

    def loss(step: int) -> Tensor:
        order[:] = order or torch.randperm(first, generator=draw).tolist()
        batch = batches[order.pop()]
        assert batch.labels is not None
        return context.losses(call(network, batch.inputs), batch.labels).mean()

    try:
        context.train(
            "a pruned network",
            dict(network.named_parameters()),
            loss,
            steps=steps,
            optimizer=Adam(rate=rate),
            schedule=lambda progress: 1 - progress,
        )
    except DivergedError:
        return math.inf
    network.eval()
    return _mean_loss(network, batches[first:], context)


@torch.no_grad()
def adapted_loss(network: nn.Module, context: Context) -> float:
    """The mean loss on the calibration examples, with the statistics of batch normalisations taken anew from them.

    Args:
        network: Changed: in eval mode, with the new statistics.
        context: Its `loss` and `calibration` are used.
    """
    network.to(context.device).eval()
    norms = _norms(network)
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
    return _mean_loss(network, batches, context)


@torch.no_grad()
def _mean_loss(network: nn.Module, batches: list[Batch], context: Context) -> float:
    total, count = 0.0, 0
    for batch in batches:
        assert batch.labels is not None
        total += float(context.losses(call(network, batch.inputs), batch.labels).sum())
        count += len(batch)
    return total / count if math.isfinite(total) else math.inf


def _norms(network: nn.Module) -> list[_BatchNorm]:
    return [part for part in network.modules() if isinstance(part, _BatchNorm) and part.track_running_stats]
