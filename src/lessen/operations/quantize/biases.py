"""Biases that give back what rounding took from the mean of each channel.

Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019, arXiv:1906.04721,
section 4.2 and appendix D: b' = b - E[what the rounded layer gives - what the layer gave], the mean over calibration
examples and positions. With x what the layer is given, that is E[eps x] for the error eps of its weights, and what the
rounding of x adds.

Shapes: O output channels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lessen.core.contracts import Context
from lessen.core.data import Inputs, call
from lessen.operations.quantize.edges import CONVOLUTIONS, LAYERS
from lessen.operations.quantize.observing import own_parameters
from lessen.operations.values import put_values, write_value
from lessen.surgery.calls import Place, Trace, Watch
from lessen.surgery.modules import get_module


def correctable(model: nn.Module, inputs: Inputs, seen: Trace, layers: Collection[str]) -> list[str]:
    """Those of the layers whose bias can take what is missing, in the order in which they run."""
    found, own = [], own_parameters(model, inputs)
    for path in dict.fromkeys(one.path for one in seen.calls if one.op in LAYERS):
        layer = get_module(model, path)
        plain = isinstance(layer, _ConvNd | nn.Linear) and type(layer).__module__.startswith("torch.nn.")
        if path in layers and (plain or "bias" in own.get(path, ())) and seen.times[path] == 1:
            found.append(path)
    return found


def corrected_biases(
    full: nn.Module, quantized: nn.Module, layers: Collection[str], context: Context
) -> dict[str, Tensor]:
    """The bias of each layer with which its channels have the mean that they have in full, shape (O,).

    Args:
        full: The network in full precision; not changed.
        quantized: The same with grids, each of the layers with a bias; a copy of it is worked on.
        layers: Which, in the order in which they run: each sees what those before it give when corrected.
        context: Calibration batches.
    """
    work, biases = copy.deepcopy(quantized).eval(), {}
    wanted = mean_outputs(full, layers, context)
    for path in layers:
        bias: Tensor = get_module(work, path).bias.detach()  # type: ignore[operator]
        missing_O = wanted[path] - mean_outputs(work, [path], context)[path]
        biases[path] = bias + missing_O.to(bias)
        put_values(work, {f"{path}.bias" if path else "bias": write_value(biases[path])})
    return biases


def mean_outputs(model: nn.Module, layers: Collection[str], context: Context) -> dict[str, Tensor]:
    """The mean of each channel that layers give, over examples and positions, before grids; shape (O,), float64."""
    sums: dict[str, Tensor] = dict.fromkeys(layers, torch.zeros((), dtype=torch.float64))
    counts = dict.fromkeys(layers, 0)

    def look(place: Place, value: Tensor) -> None:
        if place.path in sums and place.op in LAYERS:
            channels = 1 if place.op in CONVOLUTIONS else value.ndim - 1
            rows = value.detach().double().movedim(channels, -1).flatten(0, -2)
            sums[place.path] = sums[place.path].to(rows.device) + rows.sum(0)
            counts[place.path] += len(rows)

    with torch.no_grad():
        for batch in context.calibration:
            with _Outputs(model, look):
                call(model, batch.to(context.device).inputs)
    return {path: total / counts[path] for path, total in sums.items()}


class _Outputs(Watch):
    """Shows what functions give, around the watch of a quantized network: before it rounds."""

    def __init__(self, model: nn.Module, look: Callable[[Place, Any], None]) -> None:
        super().__init__(model)
        self._look = look

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        self._look(place, result)
        return result
