"""Learning which way to round, unit by unit: a layer, or a block of layers that are joined.

The units come in the order in which they run. Each is learned by itself, on calibration examples as they arrive there
through the units rounded before it, towards what it gave in the network in full precision. A unit is never left worse,
on these examples, than rounding to the nearest leaves it.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd
from torch.utils._pytree import tree_map

from lessen.core.contracts import Context
from lessen.core.data import map_inputs
from lessen.core.errors import DivergedError, PlanError
from lessen.core.seeds import generator
from lessen.operations.parts.values import put_values, write_value
from lessen.operations.quantize.fake import along
from lessen.operations.quantize.grids import Grid, WeightGrid
from lessen.operations.quantize.network import GRIDS, Rounding
from lessen.operations.quantize.rounding import Learning, indecision, power_at, soft, soft_inverse
from lessen.operations.quantize.stepped import positive
from lessen.operations.quantize.units import ReconstructionUnit, clamped, free_layers, units_of
from lessen.operations.quantize.visits import Visits, slopes
from lessen.optim import Adam
from lessen.surgery.calls import Trace, floating
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.registering import kept_weights
from lessen.surgery.modules import get_module

_CHUNK = 64


@dataclass
class Reconstructed:
    """What was learned.

    Args:
        weights: On their grids, by layer.
        gains: For each layer, how much smaller the error of its unit became, in percent.
        left: Layers that are rounded to the nearest, and why.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    gains: dict[str, float] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)


def reconstruct(
    full: nn.Module, quantized: nn.Module, seen: Trace, rounding: Learning, context: Context
) -> Reconstructed:
    """Learn the rounding of a quantized network's weights.

    Args:
        full: The network in full precision, its normalisations folded; not changed.
        quantized: The same with grids; a copy of it is worked on.
        seen: What `full` computes.
        rounding: How.
        context: Calibration batches, and the loss where errors are weighted.

    Raises:
        PlanError: errors are to be weighted, and there is no loss or no label.
    """
    if rounding.fisher and (context.loss is None or any(batch.labels is None for batch in context.calibration)):
        raise PlanError(
            "Weighting errors by the loss's gradient needs a loss and labels in the calibration batches. Give them, "
            "or set fisher=False."
        )
    full, work = copy_network(full).eval(), copy_network(quantized).eval().requires_grad_(False)
    found = Reconstructed()
    inputs = map_inputs(context.inputs, lambda value: value.to(context.device))
    layers, found.left = free_layers(full, inputs, seen, work)
    units = units_of(full, seen, layers, rounding)
    felt = slopes(full, units, context) if rounding.fisher else None
    rounded, whole = Visits(work, units, context, changing=True), Visits(full, units, context, changing=False)
    with rounded, whole:
        for unit in units:
            given = rounded.arguments(unit)
            given_full = whole.arguments(unit) if rounding.drop > 0 else None
            targets, squares = (whole.outputs(unit), None) if felt is None else next(felt)
            problem = _Problem(
                work, unit, rounding, context, given=given, given_full=given_full, targets=targets, squares=squares
            )
            try:
                weights, share = problem.learn()
            except DivergedError as error:
                found.left |= dict.fromkeys(unit.layers, str(error))
                rounded.changed(unit.weights)
                continue
            found.gains |= dict.fromkeys(unit.layers, max(0.0, 100 * (1 - share)))
            if share < 1:
                found.weights |= weights
                put_values(work, {f"{path}.weight": write_value(weight) for path, weight in weights.items()})
            rounded.changed(unit.weights)
    return found


class SoftWeight(nn.Module):
    """A layer's weight between the grid values below and above each of its numbers."""

    def __init__(self, layer: nn.Module, grid: WeightGrid) -> None:
        super().__init__()
        weight = layer.weight.detach()  # type: ignore[operator]
        axis = 1 if isinstance(layer, _ConvTransposeNd) else 0
        self.limit, self.size = grid.limit, along(positive(grid.step.detach()), weight, axis)
        kept = kept_weights(layer, "weight")
        self.kept = torch.ones_like(weight, dtype=torch.bool) if kept is None else kept
        self.below = (weight / self.size).floor()
        self.v = nn.Parameter(soft_inverse((weight / self.size - self.below).clamp(0, 1)))

    def soft(self) -> Tensor:
        return ((self.below + soft(self.v)).clamp(-self.limit, self.limit) * self.size) * self.kept

    def hard(self) -> Tensor:
        return ((self.below + (self.v >= 0)).clamp(-self.limit, self.limit) * self.size).detach() * self.kept


class _Softly(Rounding):
    """Rounds as the network does, but for the weights that are being learned; some activations pass as they are."""

    def __init__(
        self,
        model: nn.Module,
        unit: ReconstructionUnit,
        weights: dict[str, Tensor],
        drop: Callable[[Tensor], Tensor] | None,
    ) -> None:
        # Only the unit runs, so only its modules are looked for, under the names that they have in the network.
        super().__init__(get_module(model, unit.path), getattr(model, GRIDS))
        self._names = {key: ".".join(filter(None, (unit.path, name))) for key, name in self._names.items()}
        self._unit, self._weights, self._drop = unit, weights, drop

    def weight(self, path: str, limit: int, weight: Tensor, *, axis: int) -> Tensor:
        given = self._weights.get(path)
        return super().weight(path, limit, weight, axis=axis) if given is None else given

    def gives(self, site: str, module: nn.Module, output: Any) -> Any:
        return output if site == self._unit.path else super().gives(site, module, output)

    def activation(self, grid: Grid, value: Any) -> Any:
        rounded = super().activation(grid, value)
        if self._drop is None:
            return rounded
        with torch._C.DisableTorchFunction():
            return mixed(value, rounded, self._drop)


def mixed(value: Any, rounded: Any, drop: Callable[[Tensor], Tensor]) -> Any:
    """The values where `drop` gives True, what they were rounded to elsewhere; for tensors in nested tuples."""

    def one(first: Any, second: Any) -> Any:
        if not (isinstance(first, Tensor) and first.is_floating_point()):
            return second
        return torch.where(drop(first), first, second)

    return tree_map(one, value, rounded)


class _Problem:
    """The learning of one unit."""

    def __init__(
        self,
        work: nn.Module,
        unit: ReconstructionUnit,
        rounding: Learning,
        context: Context,
        *,
        given: Any,
        given_full: Any,
        targets: list[Tensor],
        squares: list[Tensor] | None = None,
    ) -> None:
        self.work, self.unit, self.rounding, self.context = work, unit, rounding, context
        self.given, self.given_full, self.targets = given, given_full, targets
        self.weights = None if squares is None else damped(squares, rounding.damping)
        self.count = len(self.targets[0])
        self.random = generator(context.seed, "rounding", unit.path)

    def error(self, index_N: Tensor, of: dict[str, Tensor], *, dropping: bool = False) -> Tensor:
        """The squared error of what the unit gives, mean over examples, with these weights in place."""
        args, kwargs = _taken(self.given, index_N, self.count)
        if dropping:
            args, kwargs = mixed(_taken(self.given_full, index_N, self.count), (args, kwargs), self._drop)
        with _Softly(self.work, self.unit, of, self._drop if dropping else None):
            outputs = list(floating(get_module(self.work, self.unit.path)(*args, **kwargs)))
        total = outputs[0].new_zeros(())
        for place, output in enumerate(outputs):
            squared = (clamped(output, self.unit.clip) - self.targets[place][index_N]).square()
            weight = 1.0 if self.weights is None else self.weights[place][index_N]
            total = total + (squared * weight).sum() / len(index_N)
        return total

    def whole(self, of: dict[str, Tensor]) -> float:
        """The same over all examples."""
        with torch.no_grad():
            parts = torch.arange(self.count).split(_CHUNK)
            return sum(float(self.error(part, of)) * len(part) for part in parts) / self.count

    def learn(self) -> tuple[dict[str, Tensor], float]:
        """The weights of the unit's layers on their grids, and their error as a share of that of the nearest."""
        rounding, grids = self.rounding, getattr(self.work, GRIDS)
        nearest = self.whole({})
        if not nearest > 0:
            return {}, 1.0
        softs = {path: SoftWeight(get_module(self.work, path), grids.of_weights(path)) for path in self.unit.layers}

        def loss(step: int) -> Tensor:
            index_N = torch.randperm(self.count, generator=self.random)[: rounding.batch]
            now = {path: each.soft() for path, each in softs.items()}
            loss = self.error(index_N, now, dropping=rounding.drop > 0) / nearest
            power = power_at(step / rounding.steps, warm_up=rounding.warm_up, powers=rounding.powers)
            if power is not None:
                pull = torch.stack([indecision(soft(each.v), power=power) for each in softs.values()]).sum()
                loss = loss + rounding.decided * pull
            return loss

        self.context.train(
            f"the rounding of {self.unit.path or 'the network'}",
            {path: each.v for path, each in softs.items()},
            loss,
            steps=rounding.steps,
            optimizer=Adam(rate=rounding.rate),
        )
        hard = {path: each.hard() for path, each in softs.items()}
        return hard, self.whole(hard) / nearest

    def _drop(self, like: Tensor) -> Tensor:
        return (torch.rand(like.shape, generator=self.random) < self.rounding.drop).to(like.device)


def damped(squares: Sequence[Tensor], damping: float) -> list[Tensor]:
    """Weights as multiples of their mean over all tensors, and `damping` added; without any slope, all 1."""
    mean = sum(float(square.sum()) for square in squares) / sum(square.numel() for square in squares)
    return [square / mean + damping if mean > 0 else torch.ones_like(square) for square in squares]


def _taken(arguments: Any, index_N: Tensor, count: int) -> Any:
    def one(leaf: Any) -> Any:
        return leaf[index_N] if isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == count else leaf

    return tree_map(one, arguments)
