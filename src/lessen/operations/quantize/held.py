"""How the parameters of a layer are stored because of the grids of the network around it.

Shapes: O output channels.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lessen.operations.quantize.fake import quantize_weight, weight_scale
from lessen.operations.quantize.stepped import positive
from lessen.operations.quantize.target import stored_bits
from lessen.surgery.attention import OpenAttention
from lessen.surgery.forms.base import Form
from lessen.surgery.forms.grid import Exact, Rounded, Rounding
from lessen.surgery.packing import Lattice


class OwnSteps(Protocol):
    """Steps of a layer's weights that do not follow from these."""

    limit: int
    step: Tensor

    def fits(self, weight: Tensor, axis: int) -> bool: ...

    def round(self, weight: Tensor, axis: int) -> Tensor: ...


def forms_of_layer(module: nn.Module, name: str, *, limit: int, own: OwnSteps | None, dynamic: bool) -> Iterator[Form]:
    """The forms of a parameter of a layer whose weights are rounded.

    Args:
        module: The layer, or a module in what replaces it.
        name: Of the parameter.
        limit: The largest code of the weights.
        own: The steps of the layer's weights, if it has steps of its own.
        dynamic: Whether the layer finds the grid of its input in it.
    """
    axes, tensor = dict(_weights(module)), getattr(module, name)
    bits = stored_bits(limit.bit_length() + 1)
    if name in axes:
        yield Rounded(bits=bits, rounding=functools.partial(_rounding, module, name, axes[name], limit, own))
    elif not axes and tensor.ndim > 1:
        yield Rounded(bits=bits, rounding=_unknown)
    elif name == "bias" and not dynamic:
        yield Exact(bits=8 * tensor.element_size(), why="it is added as a 32-bit integer")


def recurrent_weights(module: nn.LSTM) -> list[str]:
    """The names of the weights of an LSTM that are rounded, a step for each row: of all layers and directions."""
    return [name for name in module._flat_weights_names if name.startswith(("weight_ih_", "weight_hh_"))]


def _rounding(module: nn.Module, name: str, axis: int, limit: int, own: OwnSteps | None) -> Rounding | None:
    weight = getattr(module, name).detach()
    if weight.dtype not in {torch.float32, torch.float64} or not bool(weight.any()):
        return None
    if own is not None and own.fits(weight, axis):
        grid = Lattice(axis=axis, limit=own.limit, scale=positive(own.step.detach()), ends=False)
        return Rounding(grid=grid, seen=functools.partial(own.round, axis=axis))
    grid = Lattice(axis=axis, limit=limit, scale=weight_scale(weight, limit=1, axis=axis), ends=True)
    return Rounding(grid=grid, seen=functools.partial(quantize_weight, limit=limit, axis=axis))


def _unknown() -> None:
    """It is not known along which axis a module of another kind is rounded."""


def _weights(module: nn.Module) -> list[tuple[str, int]]:
    """The parameters of a layer that are rounded, and the axis of their output channels."""
    if isinstance(module, nn.MultiheadAttention | OpenAttention):
        return [] if module.in_proj_weight is None else [("in_proj_weight", 0)]
    if isinstance(module, nn.Linear | _ConvNd):
        return [("weight", int(isinstance(module, _ConvTransposeNd)))]
    return [(name, 0) for name in recurrent_weights(module)] if isinstance(module, nn.LSTM) else []
