"""Outliers of activations moved into weights, which have steps of their own for each channel.

Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438, section 4.

Shapes: C channels of what a normalisation gives.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.data import call, map_inputs
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.core.where import Where, check_where
from lessen.operations.equalize import tensors_of
from lessen.operations.rescale import NORMS, Link, Links, Rescaled, find_links, input_ranges, meant, move, proven, said
from lessen.surgery.calls import trace
from lessen.surgery.copying import copy_network
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain

_SMALLEST = 1e-5


def smoothing_scale(values_C: Tensor, weights_C: Tensor, *, strength: float) -> Tensor:
    """What to divide activations by and multiply weights by: max(X) ** a / max(W) ** (1 - a), shape (C,).

    >>> smoothing_scale(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 1.0]), strength=0.5)
    tensor([2., 1.])
    """
    values, weights = values_C.clamp_min(_SMALLEST), weights_C.clamp_min(_SMALLEST)
    return (values.pow(strength) / weights.pow(1 - strength)).clamp_min(_SMALLEST)


@settings
class Smooth:
    """Move the scale of channels with outliers from normalised activations into the linear layers that read them.

    Works on the network in floating point, before it is quantized; what the network computes does not change.

    Args:
        strength: How much moves: 0 makes weights even, 1 activations.
        where: Which normalisations; None for all.
    """

    strength: Annotated[float, Ge(0), Le(1)] = 0.5
    where: Where = None

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:2211.10438 (SmoothQuant)",
        says="Channels of activations with outliers are divided at the normalisation, and multiplied in the weights.",
        costs="One pass over the calibration batches; nothing in the shipped model.",
        fails_when="Normalisations stand behind the residual sum (post-norm), which then reads them too; attention "
        "that hides its projections (nn.MultiheadAttention). These are left alone and named.",
        differs="Scales move into normalisations only; between two layers, Equalize() does it without data.",
    )

    @classmethod
    def neutral(cls) -> Self:
        """No normalisation at all."""
        return cls(where=())

    def plan(self, model: nn.Module, context: Context) -> Rescaled:
        """See how large channels become on the calibration batches, and move their scales.

        Raises:
            PlanError: there is no calibration batch, or `where` means nothing whose scales can move.
        """
        if self.where == ():
            return Rescaled()
        model = plain(model)
        check_where(model, where=self.where)
        if not context.calibration:
            raise PlanError("Smooth needs calibration batches to see outliers in, and there are none in the context.")
        inputs = map_inputs(context.inputs, lambda value: value.to(context.device))
        own = copy_network(model).to(context.device).eval()
        links = find_links(own, trace(own, inputs), NORMS)
        links = proven(own, Links(meant(own, links, self.where), links.left), inputs)
        largest = _largest(own, links.found, context)
        spread = {}
        for link in links.found:
            values_C = largest[link.first]
            weights_C = torch.stack([input_ranges(get_module(own, path)) for path in link.then]).amax(0)
            scale_C = smoothing_scale(values_C, weights_C, strength=self.strength)
            move(own, link, scale_C)
            spread[link.first] = (_spread(values_C), _spread(values_C / scale_C))
        return Rescaled(
            links={link.first: link.then for link in links.found},
            spread=spread,
            left=said(links, "no normalisation gives to linear layers or convolutions alone"),
            values=tensors_of(own, links.found) or None,
        )


def _largest(model: nn.Module, links: list[Link], context: Context) -> dict[str, Tensor]:
    """The largest magnitude of each channel that a normalisation gives on the calibration batches, shape (C,)."""
    found: dict[str, Tensor] = {}

    def look(path: str, value: Tensor) -> None:
        largest_C = value.detach().abs().flatten(0, -2).amax(0)
        found[path] = torch.maximum(found[path], largest_C) if path in found else largest_C

    hooks = [
        get_module(model, link.first).register_forward_hook(
            lambda module, args, output, path=link.first: look(path, output)
        )
        for link in links
    ]
    try:
        with torch.no_grad():
            for batch in context.calibration:
                call(model, batch.to(context.device).inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _spread(values_C: Tensor) -> float:
    return float(values_C.max() / values_C.clamp_min(_SMALLEST).min())
