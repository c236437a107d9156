"""Outliers of activations moved into weights, which have steps of their own for each channel.

Xiao et al., SmoothQuant, ICML 2023, arXiv:2211.10438, section 4.

Shapes: C channels of what a normalisation gives.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.data import call, map_inputs
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.core.where import Where, check_where
from lessen.operations.parts.values import write_value
from lessen.operations.rescale.equalize import tensors_of
from lessen.operations.rescale.rescale import (
    NORMS,
    Link,
    Links,
    Rescaled,
    find_inputs,
    find_links,
    input_ranges,
    meant,
    move,
    multiply_inputs,
    proven,
)
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


def short_factor(scale_C: Tensor) -> Tensor:
    """What inputs are multiplied by in the place of 1 / scale: the nearest number of float16.

    Weights make up for the difference, and files hold the factors in 16 bits.

    >>> short_factor(torch.tensor([3.0, 1e9]))
    tensor([3.3325e-01, 6.1035e-05])
    """
    return (1 / scale_C).clamp(2.0**-14, 65504).half().to(scale_C.dtype)


@settings
class Smooth:
    """Move the scale of channels with outliers from normalised activations into the linear layers that read them.

    Works on the network in floating point, before it is quantized; what the network computes does not change. If
    something else also reads the normalisation, such as the residual sum behind a post-norm, the linear layers multiply
    their inputs instead.

    Args:
        strength: How much of the scale moves: 0 evens out the weights, 1 the activations.
        where: Which normalisations; None for all.
        before: Other linear layers whose inputs are multiplied, whatever computes them (such as a GELU); None for all.
            Each such input costs one multiplication at run time.
    """

    strength: Annotated[float, Ge(0), Le(1)] = 0.8
    where: Where = None
    before: Where = None

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:2211.10438 (SmoothQuant)",
        says="Activation channels with outliers are divided by a scale at the normalisation and multiplied back in "
        "the weights.",
        costs="One pass over the calibration batches. Nothing in the shipped model if only linear layers read the "
        "normalisation (pre-norm); otherwise one multiplication for each smoothed input.",
        fails_when="Attention hides its projections (nn.MultiheadAttention), or layers are shared: these are left "
        "unchanged.",
        differs="The paper's strength is 0.5. Between two layers, Equalize() does it without data.",
    )

    @classmethod
    def neutral(cls) -> Self:
        """No normalisation and no layer at all."""
        return cls(where=(), before=())

    def plan(self, model: nn.Module, context: Context) -> Rescaled:
        """See how large channels become on the calibration batches, and move their scales.

        Raises:
            PlanError: there is no calibration batch, or `where` matches nothing whose scales can move.
        """
        if self.where == () and self.before == ():
            return Rescaled()
        model = plain(model, context.inputs)
        check_where(model, where=self.where, before=self.before)
        if not context.calibration:
            raise PlanError("Smooth needs calibration batches to find outliers, and there are none in the context.")
        inputs = map_inputs(context.inputs, lambda value: value.to(context.device))
        own = copy_network(model).to(context.device).eval()
        seen = trace(own, inputs)
        links = find_links(own, seen, NORMS)
        links = proven(own, Links(meant(own, links, self.where), links.left), inputs)
        others = find_inputs(own, seen, links, self.where, self.before)
        largest = _largest(own, links.found, others, context)
        spread: dict[str, tuple[float, float]] = {}
        values: dict[str, str] = {}
        for link in [*links.found, *others]:
            values_C, layers = largest[link.first], [get_module(own, path) for path in link.then]
            weights_C = torch.stack([input_ranges(layer) for layer in layers]).amax(0)
            scale_C = smoothing_scale(values_C, weights_C, strength=self.strength)
            spread[link.first] = (_spread(values_C), _spread(values_C / scale_C))
            if link in links.found:
                move(own, link, scale_C)
                values |= tensors_of(own, [link])
                continue
            factor_C = short_factor(scale_C)
            for path, layer in zip(link.then, layers, strict=True):
                multiply_inputs(layer, 1 / factor_C)
                values[f"{path}.weight"] = write_value(layer.weight)  # type: ignore[arg-type]
                values[f"{path}.scale"] = write_value(factor_C)
        if not (links.found or others or links.left):
            links.left[""] = "no linear layer or convolution reads a normalisation"
        return Rescaled(
            links={link.first: link.then for link in links.found},
            scaled={link.first: link.then for link in others},
            spread=spread,
            left=links.left,
            values=values or None,
        )


def _largest(model: nn.Module, links: list[Link], others: list[Link], context: Context) -> dict[str, Tensor]:
    """The largest magnitude of each channel on the calibration batches, shape (C,), by the name of the link.

    Args:
        model: The network.
        links: Normalisations, whose outputs are looked at.
        others: Links whose layers' input is looked at.
        context: Calibration batches.
    """
    found: dict[str, Tensor] = {}

    def look(name: str, value: Tensor) -> None:
        largest_C = value.detach().abs().flatten(0, -2).amax(0)
        found[name] = torch.maximum(found[name], largest_C) if name in found else largest_C

    def of_output(name: str) -> Any:
        return lambda module, given, output: look(name, output)

    def of_input(name: str) -> Any:
        return lambda module, given: look(name, given[0])

    hooks = [get_module(model, link.first).register_forward_hook(of_output(link.first)) for link in links]
    hooks += [get_module(model, link.then[0]).register_forward_pre_hook(of_input(link.first)) for link in others]
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
