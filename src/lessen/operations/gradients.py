"""Gradients of the loss on calibration batches, for scores that need them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.data import call
from lessen.core.errors import PlanError


def gradients(model: nn.Module, tensors: Mapping[str, Tensor], context: Context) -> Iterator[dict[str, Tensor]]:
    """For each calibration batch, the gradient of the mean loss with respect to parameters of the network.

    The network is looked at in eval mode and given back as it was: its mode, its gradients, what requires them.

    Args:
        model: Where the parameters are.
        tensors: The parameters, by any name.
        context: Its `loss` and `calibration` are used.

    Raises:
        PlanError: there is no loss, no calibration batch, or a batch without labels.
    """
    if context.loss is None or not context.calibration:
        missing = "a loss" if context.loss is None else "calibration batches"
        raise PlanError(f"This score needs gradients, and the context has no {missing}. Give them, or use Magnitude().")
    modes = {module: module.training for module in model.modules()}
    wanted = {name: tensor.requires_grad for name, tensor in tensors.items()}
    model.eval()
    try:
        for tensor in tensors.values():
            tensor.requires_grad_(True)
        for batch in context.calibration:
            here = batch.to(context.device)
            if here.labels is None:
                raise PlanError("This score needs gradients, and a calibration batch has no labels. Use Magnitude().")
            loss = context.loss(call(model, here.inputs), here.labels).mean()
            found = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True)
            yield {
                name: torch.zeros_like(tensor) if gradient is None else gradient
                for (name, tensor), gradient in zip(tensors.items(), found, strict=True)
            }
    finally:
        for name, tensor in tensors.items():
            tensor.requires_grad_(wanted[name])
        for module, mode in modes.items():
            module.training = mode
