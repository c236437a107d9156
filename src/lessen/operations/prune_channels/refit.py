"""The layers that read what is left give again, as nearly as they can, what they gave before.

A layer that has lost inputs is fitted by least squares: what it is given in the pruned network, against what it gave in
the one that came in. Layers are fitted in the order in which they run, so each makes up for what those before it could
not. No labels are needed, and one pass over the calibration examples for each layer.

He, Zhang & Sun, Channel pruning for accelerating very deep neural networks, ICCV 2017, arXiv:1707.06168, sections 3.1
and 3.2 (the reconstruction; which channels stay is another matter here).

Shapes: N examples, P places of the output of all of them, I inputs of a place (with one more where there is a bias), O
outputs.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.contracts import Context
from lessen.core.data import Batch, Inputs, call, map_inputs
from lessen.core.errors import PlanError
from lessen.core.seeds import derive
from lessen.functional.shapes import wide
from lessen.functional.unfold import unfold
from lessen.operations.parts.values import Values, write_value
from lessen.operations.prune_channels.means import Reader, readers_of
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.surgery.calls import trace
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.places import Owners
from lessen.surgery.modules import get_module
from lessen.surgery.taps import Tap, capture

RIDGE = 0.01
"""How strongly weights are held to what they were, as a share of the mean square of an input."""

PLACES = 50_000
"""Of the places of a layer's output over all examples, so many are drawn where there are more."""

QUICK_EXAMPLES, QUICK_PLACES = 512, 8192
"""Where many networks are fitted to choose among them: from so many examples, at so many places."""

_LARGEST = 2**24
"""How many numbers of unfolded inputs are in memory at once."""

_LARGEST_KEPT = 2**27
"""How many numbers of what a network gives are in memory at once, of several layers."""


def refitted(
    model: nn.Module, plan: PrunedChannels, context: Context
) -> tuple[Values, dict[str, tuple[float, float]], dict[str, str]]:
    """The fitted weights and biases; the errors of each layer before and after; and those left as they are, why.

    An error is the sum of squares of what is missing, as a share of that of the outputs, on the calibration examples.

    Args:
        model: The network, not pruned.
        plan: What is removed from it.
        context: Its calibration batches are looked at.

    Raises:
        PlanError: there is no calibration batch.
    """
    check_refit(context)
    fitting = Fitting(model, context, places=PLACES)
    small = plan.apply(model).eval().to(context.device)
    errors, left = fitting(small, plan)
    values: Values = {}
    for path in errors:
        layer = get_module(small, path)
        assert isinstance(layer, Reader)
        values[f"{path}.weight"] = write_value(layer.weight)
        if layer.bias is not None:
            values[f"{path}.bias"] = write_value(layer.bias)
    return values, errors, left


def quickly(model: nn.Module, context: Context) -> Fitting:
    """For many pruned networks of one: fewer examples and places, and what the whole network gives is kept."""
    batches, count = [], 0
    for batch in context.calibration:
        if count < QUICK_EXAMPLES:
            batches.append(batch)
            count += len(batch)
    return Fitting(model, dataclasses.replace(context, calibration=batches), places=QUICK_PLACES, keep=True)


def check_refit(context: Context) -> None:
    """Whether there is something to fit to, before anything long starts.

    Raises:
        PlanError: there is no calibration batch.
    """
    if not context.calibration:
        raise PlanError("refit=True fits weights on calibration batches, and the context has none. Give it some.")


def _tied(owners: Owners, layer: Reader) -> str:
    """Whose its weight or bias also is; fitted, it would change there as well."""
    for tensor in (layer.weight, layer.bias):
        others = [] if tensor is None else [path for path, owner, _ in owners.of(tensor) if owner is not layer]
        if others:
            return f"its weight is also that of {others[0]}"
    return ""


class Fitting:
    """Fits networks pruned from one to what that one gives.

    Args:
        model: The network, not pruned.
        context: Its calibration batches are looked at.
        places: Of the output of a layer over all examples, so many are drawn where there are more.
        keep: Whether what the whole network gives there is kept for the next: 4 O times `places` bytes for each layer.
    """

    def __init__(self, model: nn.Module, context: Context, *, places: int, keep: bool = False) -> None:
        self.model, self.context, self.keep = model, context, keep
        self.whole = copy_network(model).eval().to(context.device)
        self.each = math.ceil(places / len(context.calibration))
        self.times = trace(model, context.inputs).times  # in the order in which modules run
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, small: nn.Module, plan: PrunedChannels) -> tuple[dict[str, tuple[float, float]], dict[str, str]]:
        """Fit in place; the errors of each layer before and after, in the order in which they run; and those left.

        Args:
            small: The pruned network, in eval mode.
            plan: What it was pruned by.
        """
        readers, left = readers_of(self.model, plan, self.times)
        owners = Owners(self.model)
        left |= {path: tied for path, layer in readers.items() if (tied := _tied(owners, layer))}
        errors = {}
        todo = [path for path in self.times if path in readers and path not in left]
        for number, path in enumerate(todo):
            if path not in self._seen:
                self._look(todo[number:])
            layer = get_module(small, path)
            assert isinstance(layer, Reader)
            errors[path] = self._fit(layer, path, small, plan.masks(f"{path}.weight").get(0))
            if not self.keep:
                del self._seen[path]
        return errors, left

    @torch.no_grad()
    def _fit(self, layer: Reader, path: str, small: nn.Module, kept_O: Tensor | None) -> tuple[float, float]:
        """Fit one layer of the pruned network; its errors before and after."""
        gram_II: Any = 0.0
        cross_IO: Any = 0.0
        squares = 0.0
        given = Tap(path=path, side="input")
        for batch, (chosen, wanted_PO) in zip(self.context.calibration, self._seen[path], strict=True):
            with capture(small, [given]) as seen:
                call(small, self._inputs(batch))
            rows_PI = wide(_rows(layer, seen[given], chosen))
            rows_PO = wide(wanted_PO if kept_O is None else wanted_PO[:, kept_O.to(wanted_PO.device)])
            gram_II = gram_II + (rows_PI.T @ rows_PI).double()
            cross_IO = cross_IO + (rows_PI.T @ rows_PO).double()
            squares += float(rows_PO.double().square().sum())
        before_IO = layer.weight.flatten(1).double().T
        if layer.bias is not None:
            before_IO = torch.cat([before_IO, layer.bias.double()[None]])
        ones_II = torch.eye(len(gram_II), dtype=torch.float64, device=gram_II.device)
        hold_II = RIDGE * gram_II.diagonal().mean() * ones_II
        fitted_IO = torch.linalg.solve(gram_II + hold_II, cross_IO + hold_II @ before_IO)
        if layer.bias is not None:
            layer.bias.copy_(fitted_IO[-1])
        size = layer.weight[0].numel()
        layer.weight.copy_(fitted_IO[:size].T.reshape(layer.weight.shape))

        def error(weight_IO: Tensor) -> float:
            missing = squares - 2 * (weight_IO * cross_IO).sum() + (weight_IO * (gram_II @ weight_IO)).sum()
            return max(0.0, float(missing)) / max(squares, 1e-30)

        return error(before_IO), error(fitted_IO)

    @torch.no_grad()
    def _look(self, paths: Sequence[str]) -> None:
        """See what the whole network gives at some places of the outputs of these layers; of the first in any case."""
        taps: list[Tap] = []
        room = _LARGEST_KEPT
        for path in paths:
            layer = get_module(self.whole, path)
            assert isinstance(layer, Reader)
            room -= self.each * len(self.context.calibration) * len(layer.weight)
            if room < 0 and taps:
                break
            taps.append(Tap(path=path))
        draws = {tap: torch.Generator().manual_seed(derive(self.context.seed, "refit", tap.path)) for tap in taps}
        self._seen |= {tap.path: [] for tap in taps}
        for batch in self.context.calibration:
            with capture(self.whole, taps) as seen:
                call(self.whole, self._inputs(batch))
            for tap, draw in draws.items():
                linear = isinstance(get_module(self.whole, tap.path), nn.Linear)
                outputs = seen[tap].movedim(-1 if linear else 1, -1)
                count = outputs[..., 0].numel()
                chosen = torch.randperm(count, generator=draw)[: self.each].sort().values.to(outputs.device)
                self._seen[tap.path].append((chosen, outputs.reshape(count, -1)[chosen]))

    def _inputs(self, batch: Batch) -> Inputs:
        return map_inputs(batch.inputs, lambda value: value.to(self.context.device))


def _rows(layer: Reader, inputs: Tensor, chosen: Tensor) -> Tensor:
    """What some places of the output are computed from, shape (P, I); the last column is 1 where there is a bias."""
    if isinstance(layer, nn.Linear):
        rows_PI = inputs.reshape(-1, inputs.shape[-1])[chosen]
    else:
        padding: Any = layer.padding
        if layer.padding_mode != "zeros":
            inputs = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
            padding = [0] * len(layer.kernel_size)
        size = max(1, _LARGEST // (inputs[:1].numel() * math.prod(layer.kernel_size)))
        found, first = [], 0
        for part in inputs.split(size):
            patches_GPI = unfold(part, layer.kernel_size, stride=layer.stride, padding=padding, dilation=layer.dilation)
            patches_PI = patches_GPI[0]
            here = chosen[(chosen >= first) & (chosen < first + len(patches_PI))] - first
            found.append(patches_PI[here])
            first += len(patches_PI)
        rows_PI = torch.cat(found)
    return rows_PI if layer.bias is None else F.pad(rows_PI, (0, 1), value=1.0)
