"""Gradients of the loss on calibration batches, for scores that need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.data import call
from lessen.core.errors import PlanError
from lessen.surgery.copying import copy_network


def gradients(model: nn.Module, tensors: Mapping[str, Tensor], context: Context) -> Iterator[dict[str, Tensor]]:
    """For each calibration batch, the gradient of the mean loss with respect to parameters of the network.

    Computed in eval mode on a copy on the context's device; what is given back is on the device of the parameters.

    Args:
        model: The network; it is not changed.
        tensors: Its parameters, by any name.
        context: Its `loss` and `calibration` are used.

    Raises:
        PlanError: there is no loss, no calibration batch, or a batch without labels.
    """
    if context.loss is None or not context.calibration:
        missing = "a loss" if context.loss is None else "calibration batches"
        raise PlanError(f"This score needs gradients, and the context has no {missing}. Give them, or use Magnitude().")
    copies: dict[int, Any] = {}
    own = copy_network(model, copies).to(context.device).eval()
    wanted = [copies[id(tensor)].requires_grad_(True) for tensor in tensors.values()]
    for batch in context.calibration:
        here = batch.to(context.device)
        if here.labels is None:
            raise PlanError("This score needs gradients, and a calibration batch has no labels. Use Magnitude().")
        loss = context.losses(call(own, here.inputs), here.labels).mean()
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
        yield {
            name: torch.zeros_like(tensor) if gradient is None else gradient.to(tensor.device)
            for (name, tensor), gradient in zip(tensors.items(), found, strict=True)
        }
