"""A quantized network: the original network, with grids on its edges.

Its modules, names, forward function and hooks stay what they were. The class of the whole network becomes a subclass of
its own class whose forward function runs under a watch (`lessen.surgery.calls`); the watch rounds the weights of layers
and what passes the sites that have a grid. The grids are the one module that is added, `grids`; its buffers are saved,
moved and copied with the network. Because nothing else is touched, later operations may change layers, and what they
leave or put in a layer's place is still quantized.

A layer that an operation has replaced by several keeps the grid on what comes out of it. Weights have no state where
the step of a channel follows from them; steps of their own are stored with the grids, and where a layer is no longer
the one that they were made for, its steps follow its weights again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeVar

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lessen.core.errors import PlanError
from lessen.operations.parts.pausing import ThreadWatch
from lessen.operations.quantize.edges import LAYERS
from lessen.operations.quantize.fake import quantize_weight
from lessen.operations.quantize.found import quantize_dynamically
from lessen.operations.quantize.grids import Grid, Grids
from lessen.operations.quantize.target import SAFE, adds_no_pairs
from lessen.surgery.calls import Place, floating
from lessen.surgery.forms.places import holder_of
from lessen.surgery.modules import get_module

GRIDS = "grids"
N = TypeVar("N", bound=nn.Module)


class Rounding(ThreadWatch):
    """Rounds what passes the sites of a network that have a grid."""

    def __init__(self, model: nn.Module, grids: Grids) -> None:
        super().__init__(model)
        self.grids = grids
        # Where a module has two names, an exporter hands out proxies, new ones each time. What a proxy shares with its
        # module is the dict of attributes.
        named = list(model.named_modules())
        self._first = {id(vars(module)): module for _, module in reversed(named)}
        self._names = {id(self._module(module)): name for name, module in reversed(named)}

    def _module(self, module: nn.Module) -> nn.Module:
        found: nn.Module = self._first.get(id(vars(module)), module)
        return found

    def _enter(self, module: nn.Module, args: Any) -> None:
        super()._enter(self._module(module), args)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> Any:
        return super()._leave(self._module(module), args, output)

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if place.op in LAYERS:
            limit = self.grids.limit(place.path)
            if limit is not None:
                change = functools.partial(self.weight, place.path, limit)
                args, kwargs = with_weight(place.op, args, kwargs, change)
                if self.grids.dynamic:
                    args, kwargs = _with_found_grid(args, kwargs)
        elif place.op == "lstm" and self.grids.dynamic and place.path in self.grids.limits:
            args = _rounded_lstm(args, self.grids.limits[place.path])
        return self._round(place.site, run(*args, **kwargs))

    def gives(self, site: str, module: nn.Module, output: Any) -> Any:
        return self._round(site, output)

    def weight(self, path: str, limit: int, weight: Tensor, *, axis: int) -> Tensor:
        """The weight that a layer is to multiply by."""
        own = self.grids.of_weights(path)
        if own is not None and own.fits(weight, axis):
            return own.round(weight, axis)
        rounded: Tensor = quantize_weight(weight, limit=limit, axis=axis)
        return rounded

    def activation(self, grid: Grid, value: Any) -> Any:
        """What is to pass a site with this grid."""
        return grid.round(value)

    def _round(self, site: str, value: Any) -> Any:
        grid = self.grids.at(site)
        return value if grid is None else self.activation(grid, value)


def with_grids(model: N, grids: Grids) -> N:
    """Make a network a quantized one, in place, and return it.

    Raises:
        PlanError: it is one already.
    """
    if hasattr(model, GRIDS):
        raise PlanError(
            f"{type(model).__name__} is quantized already (it has {GRIDS!r}). Quantize the network it came from."
        )
    model.add_module(GRIDS, grids)
    model.__class__ = _quantized_class(type(model))  # type: ignore[assignment, arg-type]
    return model


def is_quantized(model: nn.Module) -> bool:
    """Whether a network, or a part of it, was made by `with_grids`."""
    return any(holder_of(part, Grids) is not None for part in model.modules())


def target_of(model: nn.Module) -> Literal["any", "vnni"] | None:
    """Which processors a quantized network computes right on (see `target`); None for one that is not quantized."""
    parts = [(part, grids) for part in model.modules() if (grids := holder_of(part, Grids)) is not None]
    if not parts:
        return None
    wide = ((part, path) for part, grids in parts for path, limit in grids.limits.items() if limit >= 2 ** (SAFE - 1))
    return "any" if all(adds_no_pairs(get_module(part, path)) for part, path in wide) else "vnni"


def limit_at(model: nn.Module, path: str) -> int | None:
    """The largest code of the weight of a layer, in a network made by `with_grids`; None where it is not rounded."""
    names = path.split(".") if path else []
    for count in range(len(names) + 1):
        try:
            grids = holder_of(model.get_submodule(".".join(names[:count])), Grids)
        except AttributeError:
            break
        if grids is not None:
            return grids.limit(".".join(names[count:]))
    return None


def with_weight(
    op: str, args: tuple[Any, ...], kwargs: dict[str, Any], change: Callable[..., Tensor]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a layer, with its weight changed; `change` gets the axis of its output channels."""
    axis = 1 if op.startswith("conv_transpose") else 0
    if "weight" in kwargs:
        return args, {**kwargs, "weight": change(kwargs["weight"], axis=axis)}
    return (args[0], change(args[1], axis=axis), *args[2:]), kwargs


def _with_found_grid(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of a layer, with what it is given on the grid found in it."""
    if "input" in kwargs:
        return args, {**kwargs, "input": quantize_dynamically(kwargs["input"])}
    return (quantize_dynamically(args[0]), *args[1:]), kwargs


def _rounded_lstm(args: tuple[Any, ...], limit: int) -> tuple[Any, ...]:
    """The arguments of an LSTM with all its weights rounded, and what the first layer is given on the grid found in it.

    Args:
        args: The input, for packed sequences their sizes, then the states and the weights and biases, each in a list.
        limit: The largest code.
    """
    _, place = (place for place, value in enumerate(args) if isinstance(value, list | tuple))
    weights = [quantize_weight(each, limit=limit, axis=0) if each.ndim > 1 else each for each in args[place]]
    return (quantize_dynamically(args[0]), *args[1:place], weights, *args[place + 1 :])


@functools.cache
def _quantized_class(kind: type[nn.Module]) -> type[nn.Module]:
    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        grids: Grids = getattr(self, GRIDS)
        places = {id(value): place for place, value in enumerate(floating((args, kwargs)))}

        def enter(value: Any) -> Any:
            grid = grids.at(f"input:{places[id(value)]}") if id(value) in places else None
            return value if grid is None else grid.round(value)

        args, kwargs = tree_map(enter, (args, kwargs))
        with Rounding(self, grids):
            return kind.forward(self, *args, **kwargs)

    return type(
        f"Quantized{kind.__name__}",
        (kind,),
        {"forward": forward, "__doc__": kind.__doc__, "__module__": kind.__module__},
    )
