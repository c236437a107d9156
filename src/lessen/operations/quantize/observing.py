"""The values at the sites of a network on the calibration batches, and the weights of its layers.

Shapes: O output channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.contracts import Context
from lessen.core.data import Inputs, call
from lessen.core.errors import PlanError
from lessen.operations.quantize.edges import LAYERS, Sites
from lessen.operations.quantize.observers import Observer, Seen, grid
from lessen.surgery.calls import Place, Watch, floating
from lessen.surgery.modules import get_module


def observe(
    model: nn.Module, sites: Sites, context: Context, observer: Observer, *, levels: int
) -> dict[str, tuple[float, int]]:
    """For each site the step and the code of zero that the observer chooses.

    Raises:
        PlanError: nothing passes a site, or something that is not finite.
    """
    seen = {site: Seen() for site in sites.values()}

    def first(what: Seen, values: Tensor) -> None:
        what.stretch(values)
        if observer.needs_counts:
            what.look_for_spikes(values)

    _pass_over(model, context, seen, first)
    for site, what in seen.items():
        if what.low > what.high:
            raise PlanError(f"No values reached {site!r} on the calibration batches, unlike on the example inputs.")
        if not (abs(what.low) < float("inf") and abs(what.high) < float("inf")):
            raise PlanError(
                f"The values at {site!r} are not finite on the calibration batches. Check data and weights."
            )
    if observer.needs_counts:
        _pass_over(model, context, seen, Seen.count)
    grids = {site: grid(*observer.range_of(what, levels=levels), levels=levels) for site, what in seen.items()}
    return {site: grids[source] for site, source in sites.items()}


def weight_steps(weight: Tensor, observer: Observer, *, limit: int, axis: int) -> Tensor:
    """The step of each output channel's symmetric grid, chosen by an observer of magnitudes, shape (O,), float32."""
    steps = []
    for row in weight.detach().abs().float().movedim(axis, 0).flatten(1):
        what = Seen(low=0.0, high=float(row.max()))
        if observer.needs_counts:
            what.look_for_spikes(row)
            what.count(row)
        steps.append(grid(*observer.range_of(what, levels=limit), levels=limit)[0])
    return torch.tensor(steps, dtype=torch.float32, device=weight.device)


def layer_weights(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """By path, what each layer multiplies by, the axis of its steps in front.

    A layer whose weight differs from call to call is not among them.
    """
    with torch.no_grad(), _Weights(model) as found:
        call(model, inputs)
    return {
        path: weights[0]
        for path, weights in found.seen.items()
        if all(weight.shape == weights[0].shape and torch.equal(weight, weights[0]) for weight in weights)
    }


def own_parameters(model: nn.Module, inputs: Inputs) -> dict[str, set[str]]:
    """By path, which of its `weight` and `bias` each convolution and linear layer multiplies by and adds unchanged.

    One that standardises its weight first, or adds no bias of its own, lacks that name; so does one that calls for
    different ones.
    """
    with torch.no_grad(), _Own(model) as found:
        call(model, inputs)
    return found.seen


class _Own(Watch):
    """Notes which of a layer's parameters reach its function unchanged."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._model = model
        self.seen: dict[str, set[str]] = {}

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if place.op in LAYERS:
            given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
            layer, here = get_module(self._model, place.path), set[str]()
            for name in ("weight", "bias"):
                passed, own = given.get(name), getattr(layer, name, None)
                if isinstance(passed, Tensor) and isinstance(own, Tensor) and passed.shape == own.shape:
                    here |= {name} if torch.equal(passed, own) else set()
            self.seen[place.path] = self.seen.get(place.path, here) & here
        return run(*args, **kwargs)


class _Weights(Watch):
    """Notes the weights of layers."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.seen: dict[str, list[Tensor]] = {}

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if place.op in LAYERS:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            axis = 1 if place.op.startswith("conv_transpose") else 0
            self.seen.setdefault(place.path, []).append(weight.detach().movedim(axis, 0))
        return run(*args, **kwargs)


class _Observing(Watch):
    """Shows what passes the sites to `look`."""

    def __init__(self, model: nn.Module, look: Callable[[str, Any], None]) -> None:
        super().__init__(model)
        self._look = look

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        self._look(place.site, result)
        return result

    def gives(self, site: str, module: nn.Module, output: Any) -> Any:
        self._look(site, output)
        return output


def _pass_over(
    model: nn.Module, context: Context, seen: dict[str, Seen], observe: Callable[[Seen, Tensor], None]
) -> None:
    """Run the network over the calibration batches and show each site's values to its `Seen`."""

    def look(site: str, values: Any) -> None:
        if site in seen:
            for value in floating(values):
                observe(seen[site], value)

    for batch in context.calibration:
        inputs: Inputs = batch.to(context.device).inputs
        for place, value in enumerate(floating(inputs)):
            look(f"input:{place}", value)
        with torch.no_grad(), _Observing(model, look):
            call(model, inputs)
