"""Grids as modules: the numbers of each in a network's state, fixed or learned, and the rounding to it.

Shapes: O output channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lessen.operations.quantize.fake import fake_quantize
from lessen.operations.quantize.held import forms_of_layer
from lessen.operations.quantize.stepped import (
    positive,
    quantize_by_clip,
    quantize_by_offset,
    quantize_by_step,
    quantize_weight_by,
    zero_of,
)
from lessen.surgery.decay import OwnDecay
from lessen.surgery.forms.base import Form, Holder
from lessen.surgery.forms.grid import Exact


class Grid(nn.Module):
    """The grid of one site: buffers `scale`, shape (), and `zero_point`, shape (), int32.

    Args:
        scale: The step.
        zero_point: The code of zero.
        levels: The largest code; the smallest is 0.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: float, zero_point: int, *, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.make(scale, zero_point)

    def make(self, scale: float, zero_point: int) -> None:
        """Make the tensors of the state."""
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))

    def round(self, values: Any) -> Any:
        """Put every floating tensor in `values` on the grid."""
        return tree_map(self._round, values)

    def _round(self, value: Any) -> Any:
        return self.quantize(value) if isinstance(value, Tensor) and value.is_floating_point() else value

    def quantize(self, x: Tensor) -> Tensor:
        """The values on the grid, in the shape and type of `x`."""
        rounded: Tensor = fake_quantize(x, self.scale, self.zero_point, low=0, high=self.levels)
        return rounded

    def numbers(self) -> tuple[float, int]:
        """The step and the code of zero, as they are now."""
        return float(self.scale), int(self.zero_point)

    def extra_repr(self) -> str:
        step, zero = self.numbers()
        return f"scale={step:.4g}, zero_point={zero}, levels={self.levels}"


class StepGrid(Grid):
    """A grid whose step `scale`, shape (), learns around a fixed zero."""

    def make(self, scale: float, zero_point: int) -> None:
        """Make the tensors of the state."""
        self.scale = OwnDecay(torch.tensor(scale, dtype=torch.float32))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=torch.int32))

    def quantize(self, x: Tensor) -> Tensor:
        """The values on the grid, in the shape and type of `x`."""
        rounded: Tensor = quantize_by_step(x, self.scale, self.zero_point, high=self.levels)
        return rounded

    def numbers(self) -> tuple[float, int]:
        """The step and the code of zero, as they are now."""
        return float(positive(self.scale.detach())), int(self.zero_point)


class OffsetGrid(Grid):
    """A grid whose step `scale` and start `offset`, shape () each, learn."""

    def make(self, scale: float, zero_point: int) -> None:
        """Make the tensors of the state."""
        self.scale = OwnDecay(torch.tensor(scale, dtype=torch.float32))
        self.offset = OwnDecay(torch.tensor(-scale * zero_point, dtype=torch.float32))

    def quantize(self, x: Tensor) -> Tensor:
        """The values on the grid, in the shape and type of `x`."""
        rounded: Tensor = quantize_by_offset(x, self.scale, self.offset, high=self.levels)
        return rounded

    def numbers(self) -> tuple[float, int]:
        """The step and the code of zero, as they are now."""
        step = positive(self.scale.detach())
        return float(step), int(zero_of(self.offset.detach(), step, high=self.levels))


class ClipGrid(Grid):
    """A grid from 0 to `clip`, shape (), which learns.

    Args:
        scale: The first step.
        levels: The largest code.
        decay: Of the clip.
    """

    def __init__(self, scale: float, *, levels: int, decay: float) -> None:
        self.decay = decay
        super().__init__(scale, 0, levels=levels)

    def make(self, scale: float, zero_point: int) -> None:
        """Make the tensors of the state."""
        self.clip = OwnDecay(torch.tensor(scale * self.levels, dtype=torch.float32), decay=self.decay)

    def quantize(self, x: Tensor) -> Tensor:
        """The values on the grid, in the shape and type of `x`."""
        rounded: Tensor = quantize_by_clip(x, self.clip, high=self.levels)
        return rounded

    def numbers(self) -> tuple[float, int]:
        """The step and the code of zero, as they are now."""
        return float(positive(self.clip.detach()) / self.levels), 0


class WeightGrid(nn.Module):
    """The symmetric grids of a layer's weights: a step for each output channel, `step`, shape (O,).

    Args:
        step: Shape (O,).
        limit: The largest code.
        learns: Whether the steps learn.
    """

    step: Tensor

    def __init__(self, step: Tensor, *, limit: int, learns: bool) -> None:
        super().__init__()
        self.limit = limit
        if learns:
            self.step = OwnDecay(step)
        else:
            self.register_buffer("step", step)

    def fits(self, weight: Tensor, axis: int) -> bool:
        """Whether the weight has as many output channels as there are steps."""
        return bool(weight.shape[axis] == self.step.shape[0])

    def round(self, weight: Tensor, axis: int) -> Tensor:
        """The weight on the grid, in its shape and type."""
        rounded: Tensor = quantize_weight_by(weight, self.step, limit=self.limit, axis=axis)
        return rounded

    def extra_repr(self) -> str:
        return f"channels={len(self.step)}, limit={self.limit}"


class Grids(Holder):
    """All grids of a network, and which layers have their weights rounded.

    Args:
        edges: For each site the step and the code of zero, or its grid.
        levels: The largest code of an activation.
        limits: For each layer, by name, the largest code of its weights.
        weights: The grids of layers whose steps do not follow their weights.
        same: Sites that keep the grid of another one, by name, and that other.
        dynamic: Whether the layers round what they are given to a grid that they find in it.
    """

    def __init__(
        self,
        edges: Mapping[str, tuple[float, int] | Grid],
        *,
        levels: int,
        limits: Mapping[str, int],
        weights: Mapping[str, WeightGrid] | None = None,
        same: Mapping[str, str] | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        self.dynamic = dynamic
        self.limits = dict(limits)
        self.same = dict(same or {})
        for site, found in edges.items():
            self.add_module(_spelt(site), Grid(*found, levels=levels) if isinstance(found, tuple) else found)
        for path, grid in (weights or {}).items():
            self.add_module(weight_grid_name(path), grid)

    def forward(self, value: Any) -> Any:
        """The value: a network that is a sequence of modules calls them all, this one too."""
        return value

    def held(self, path: str, module: nn.Module, name: str) -> Iterator[Form]:
        """The rounding of the weights of a layer, and the bias that kernels add in integers."""
        limit = self.limit(path)
        if limit is not None:
            yield from forms_of_layer(module, name, limit=limit, own=self.of_weights(path), dynamic=self.dynamic)

    def own(self, module: nn.Module, name: str) -> Iterator[Form]:
        """The numbers of a grid take no other form."""
        bits = 8 * getattr(module, name).element_size()
        yield Exact(bits=bits, why="it is the step of a grid, which kernels read in 32 bits")

    def make_still(self) -> None:
        """Do not round what layers are given to a grid that is found in it: that depends on the whole batch."""
        self.dynamic = False

    def at(self, site: str) -> Grid | None:
        """The grid of a site, if it has one."""
        found: Grid | None = self._modules.get(_spelt(self.same.get(site, site)))  # type: ignore[assignment]
        return found

    def limit(self, path: str) -> int | None:
        """The largest code of the weights of a layer, or of the module that replaces it."""
        while path not in self.limits:
            if not path:
                return None
            path = path.rpartition(".")[0]
        return self.limits[path]

    def of_weights(self, path: str) -> WeightGrid | None:
        """The grid of the weights of exactly this layer, if it has one of its own."""
        found: WeightGrid | None = self._modules.get(weight_grid_name(path))  # type: ignore[assignment]
        return found


def weight_grid_name(path: str) -> str:
    """The name of the grid of a layer's weights; no site is called so."""
    return f"{_spelt(path)}:weight"


def _spelt(site: str) -> str:
    """A site as the name of a module, which may hold no dots."""
    return site.replace(".", "/")
