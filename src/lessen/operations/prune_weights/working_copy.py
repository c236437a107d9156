"""A copy of a network to take gradients on: in the state it has while it learns, without what is drawn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lessen.core import Context
from lessen.core.data import call
from lessen.core.errors import PlanError
from lessen.operations.prune_weights.candidates import Weights
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.mask import bake_masks
from lessen.surgery.forms.registering import stored

ADVICE = "Give them, or use Magnitude()."


def working_copy(model: nn.Module, chosen: Weights, context: Context) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A copy on the context's device, in eval mode, masks baked in, and its chosen weights by name."""
    known: dict[int, Any] = {}
    own = bake_masks(copy_network(model, known).to(context.device)).eval().requires_grad_(False)
    weights = {name: known[id(stored(*owner))] for name, owner in chosen.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    return own, weights


def losses(own: nn.Module, context: Context, *, temperature: float = 1.0) -> Iterator[tuple[Tensor, float]]:
    """The mean loss of each calibration batch, and the share of all examples that the batch is.

    Batch norm uses the statistics of the batch, as in training: before a training, running ones say nothing.

    Args:
        own: A copy; its running statistics move.
        context: Its `loss` and `calibration` are used.
        temperature: What the outputs are divided by.

    Raises:
        PlanError: there is no loss, no calibration batch, or a batch without labels.
    """
    if context.loss is None or not context.calibration:
        missing = "a loss" if context.loss is None else "calibration batches"
        raise PlanError(f"This score needs gradients, and the context has no {missing}. {ADVICE}")
    for module in own.modules():
        if isinstance(module, _BatchNorm):
            module.train()
    total = sum(len(batch) for batch in context.calibration)
    for batch in context.calibration:
        here = batch.to(context.device)
        if here.labels is None:
            raise PlanError(f"This score needs gradients, and a calibration batch has no labels. {ADVICE}")
        outputs = context.judged(call(own, here.inputs))
        yield (
            context.losses(outputs if temperature == 1.0 else outputs / temperature, here.labels).mean(),
            len(batch) / total,
        )


def gradient(loss: Tensor, weights: dict[str, nn.Parameter], *, again: bool = False) -> dict[str, Tensor]:
    """The gradient of a loss by each weight; zeros where it does not depend on it. With `again`, it can be derived."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=again, allow_unused=True)
    return {
        name: torch.zeros_like(weight) if part is None else part
        for (name, weight), part in zip(weights.items(), found, strict=True)
    }
