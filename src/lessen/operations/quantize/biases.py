"""Biases that give back what rounding took from the mean of each channel.

Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019, arXiv:1906.04721,
section 4.2 and appendix D: b' = b - E[what the rounded layer gives - what the layer gave], the mean over calibration
examples and positions. With x what the layer is given, that is E[eps x] for the error eps of its weights, and what the
rounding of x adds.

Shapes: O output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_flatten, tree_unflatten

from lessen.core.contracts import Context
from lessen.core.data import Inputs, call
from lessen.operations.quantize.edges import CONVOLUTIONS, LAYERS
from lessen.operations.quantize.observing import own_parameters
from lessen.surgery.calls import Place, Trace, Watch, floating
from lessen.surgery.modules import get_module

_MEMORY, _COPIES = 2**31, 4
"""Bytes that the examples may take at once, and how often what the largest call touches is there meanwhile."""


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

    Each layer sees what those before it give when corrected. All examples therefore go through the quantized network
    side by side, once: a layer's bias is known before anything behind it runs.

    Args:
        full: The network in full precision; not changed.
        quantized: The same with grids, each of the layers with a bias; not changed.
        layers: Which.
        context: Calibration batches; as many examples of one shape are looked at as fit into 2 GiB at once.
    """
    inputs = _side_by_side(full, context)
    wanted = mean_outputs(full, layers, [inputs])
    with torch.no_grad(), _Correcting(quantized.eval(), wanted) as found:
        call(quantized, inputs)
    return found.biases


def mean_outputs(model: nn.Module, layers: Collection[str], batches: Iterable[Inputs]) -> dict[str, Tensor]:
    """The mean of each channel that layers give, over examples and positions, before grids; shape (O,), float64."""
    sums: dict[str, Tensor] = dict.fromkeys(layers, torch.zeros((), dtype=torch.float64))
    counts = dict.fromkeys(layers, 0)

    def look(place: Place, value: Tensor) -> None:
        if place.path in sums and place.op in LAYERS:
            rows = _rows(place.op, value)
            sums[place.path] = sums[place.path].to(rows.device) + rows.sum(0)
            counts[place.path] += len(rows)

    with torch.no_grad():
        for inputs in batches:
            with _Outputs(model, look):
                call(model, inputs)
    return {path: total / counts[path] for path, total in sums.items()}


def _rows(op: str, value: Tensor) -> Tensor:
    """What a layer gives, shape (examples and positions, O), float64."""
    return value.detach().double().movedim(1 if op in CONVOLUTIONS else value.ndim - 1, -1).flatten(0, -2)


def _side_by_side(model: nn.Module, context: Context) -> Inputs:
    """Calibration examples of the most common shape, as many as fit, in one batch on the context's device."""
    alike: dict[Any, list[Any]] = {}
    for batch in context.calibration:
        leaves, form = tree_flatten(batch.inputs)
        alike.setdefault((str(form), tuple(leaf.shape[1:] for leaf in leaves)), []).append((leaves, form))
    chosen = max(alike.values(), key=lambda batches: sum(len(leaves[0]) for leaves, _ in batches))
    leaves = [torch.cat(parts).to(context.device) for parts in zip(*(leaves for leaves, _ in chosen), strict=True)]
    form, count = chosen[0][1], len(chosen[0][0][0])
    with torch.no_grad(), _Sizes(model) as sizes:
        call(model, tree_unflatten([leaf[:count] for leaf in leaves], form))
    most = max(1, _MEMORY * count // (_COPIES * max(sizes.largest, 1)))
    together: Inputs = tree_unflatten([leaf[:most] for leaf in leaves], form)
    return together


class _Sizes(Watch):
    """Notes how many bytes the largest call reads and writes."""

    largest = 0

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        self.largest = max(self.largest, sum(value.nbytes for value in floating((args, kwargs, result))))
        return result


class _Correcting(Watch):
    """Gives each layer the bias with which its mean is the wanted one, as soon as it runs."""

    def __init__(self, model: nn.Module, wanted: Mapping[str, Tensor]) -> None:
        super().__init__(model)
        self._wanted = wanted
        self._model = model
        self.biases: dict[str, Tensor] = {}

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        if place.op not in LAYERS or place.path not in self._wanted:
            return result
        bias: Tensor = get_module(self._model, place.path).bias.detach()  # type: ignore[operator]
        missing_O = self._wanted[place.path] - _rows(place.op, result).mean(0)
        self.biases[place.path] = bias = bias + missing_O.to(bias)
        if "bias" in kwargs:
            return run(*args, **{**kwargs, "bias": bias})
        return run(*args[:2], bias, *args[3:], **kwargs)


class _Outputs(Watch):
    """Shows what functions give, around the watch of a quantized network: before it rounds."""

    def __init__(self, model: nn.Module, look: Callable[[Place, Any], None]) -> None:
        super().__init__(model)
        self._look = look

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        self._look(place, result)
        return result
