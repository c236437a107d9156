"""The axes of a file: which sizes it takes besides the traced one, what they are called, and what stays fixed.

Every axis of an input is tried: where neither the weights nor the code of the network fix its size, it is free in the
file, and has a name ("batch", "length", "height", "width"). Whether a file computes the same as its network at other
sizes is found out by running both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.batch import named_values
from lessen.core.data import Inputs, call, map_inputs
from lessen.core.tree import parts
from lessen.measure.evaluate import device_of, evaluating

BATCH = "batch"
_FEW = 2
"""Examples at a time where other sizes are tried."""
_FIXED = "why its sizes are fixed"


@dataclass(frozen=True, kw_only=True)
class Axes:
    """The axes of the inputs of a file.

    Args:
        inputs: For each input its axes in order: the name of a free one, the size of a fixed one.
        limits: The smallest and the largest size of a free axis, where the network sets them; None: no limit.
        symbols: The names by what the exporter calls them.
        reason: Why no axis but the batch is free, as a sentence; None where one is, or where nobody would expect it.
    """

    inputs: Mapping[str, tuple[str | int, ...]] = field(default_factory=dict)
    limits: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)
    symbols: Mapping[str, str] = field(default_factory=dict)
    reason: str | None = None

    @property
    def free(self) -> list[str]:
        """The names of free axes, without the batch."""
        names = [axis for axes in self.inputs.values() for axis in axes if isinstance(axis, str) and axis != BATCH]
        return list(dict.fromkeys(names))

    def rename(self, text: str) -> str | int:
        """A size as the exporter writes it ("s77", "s0*s53", "3") with the names of the axes in it."""
        if text in self.symbols:
            return self.symbols[text]
        named = re.sub(r"[A-Za-z_]\w*", lambda found: self.symbols.get(found.group(), found.group()), text)
        return int(named) if named.isdigit() else named

    def to_json(self) -> dict[str, Any]:
        """As data for a record."""
        said: dict[str, Any] = {"inputs": {name: list(axes) for name, axes in self.inputs.items()}}
        if self.limits:
            said["limits"] = {name: list(limits) for name, limits in self.limits.items()}
        return said if self.reason is None else {**said, "fixed": self.reason}


def say_fixed(program: torch.export.ExportedProgram, reason: str) -> None:
    """Keep with a traced network why its sizes are fixed, as a sentence without a full stop."""
    program.graph_module.meta[_FIXED] = reason


def axes_of(program: torch.export.ExportedProgram) -> Axes:
    """The axes of a traced network.

    Args:
        program: The network as `trace` returns it.
    """
    placeholders = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    shapes = {
        name: [_text(size) for size in value.shape]
        for name in program.graph_signature.user_inputs
        if isinstance(name, str) and isinstance(value := placeholders.get(name), Tensor)
    }
    symbols: dict[str, str] = {}
    taken: set[str] = set()
    for name, shape in shapes.items():
        free = {place for place, size in enumerate(shape) if place > 0 and isinstance(size, str)}
        called = _called(len(shape), free)
        for place, size in enumerate(shape):
            if isinstance(size, str) and size not in symbols:
                wanted = called.get(place, BATCH)
                symbols[size] = wanted if wanted == BATCH or wanted not in taken else f"{name}_{wanted}"
                taken.add(symbols[size])
    limits = {}
    for symbol, found in program.range_constraints.items():
        called_so = symbols.get(str(symbol))
        low, high = (_whole(end) for end in (found.lower, found.upper))
        low = low if low is not None and low > 2 else None  # the exporter says 2 for everything
        high = high if high is not None and high < 2**31 else None
        if called_so not in {None, BATCH} and (low, high) != (None, None):
            limits[str(called_so)] = (low, high)
    inputs = {name: tuple(symbols.get(str(size), size) for size in shape) for name, shape in shapes.items()}
    return Axes(inputs=inputs, limits=limits, symbols=symbols, reason=program.graph_module.meta.get(_FIXED))


def _called(rank: int, free: set[int]) -> dict[int, str]:
    """What the free axes of an input are called, by their places.

    >>> _called(4, {2, 3}), _called(2, {1}), _called(4, {1, 2})
    ({2: 'height', 3: 'width'}, {1: 'length'}, {1: 'height', 2: 'width'})
    """
    if rank < 4:
        return dict(zip(sorted(free), ("length", "width"), strict=False))
    last = rank - 1
    places = ["depth", "height", "width"][-(rank - 2) :]
    first = 1 if last not in free and 1 in free else 2  # channels last, or first
    called = dict(zip(range(rank - len(places) - (2 - first), rank), places, strict=False))
    return {place: called.get(place, f"axis_{place}") for place in sorted(free)}


def _text(size: Any) -> str | int:
    said = str(size)  # a symbol that the exporter has found to be a number is still a symbol
    return int(said) if said.isdigit() else said


def _whole(value: Any) -> int | None:
    """A bound of the exporter as a number; None for infinity."""
    return int(value) if getattr(value, "is_Integer", isinstance(value, int)) else None


@dataclass(frozen=True)
class Trial:
    """A network at another size than the traced one.

    Args:
        sizes: The size of each free axis.
        inputs: A few examples of this size.
        wanted: What the network gives, by name.
    """

    sizes: Mapping[str, int]
    inputs: Inputs
    wanted: Mapping[str, Tensor]

    def __str__(self) -> str:
        return ", ".join(f"{name} {size}" for name, size in self.sizes.items())


def trials(network: nn.Module, inputs: Inputs, axes: Axes, *, most: int = 2) -> list[Trial]:
    """The network at other sizes that it takes, as many as `most`; larger and smaller ones where both run.

    Args:
        network: The network in PyTorch.
        inputs: Examples of the traced size.
        axes: Which axes are free.
        most: How many sizes.
    """
    if not axes.free:
        return []
    now = _sizes(inputs, axes)
    found: list[Trial] = []
    for change in (_larger, _half, _twice, _less):
        sizes = {name: _within(change(size), axes.limits.get(name)) for name, size in now.items()}
        if sizes == now or any(sizes == each.sizes for each in found):
            continue
        resized = _resized(inputs, axes, sizes)
        wanted = given_by(network, resized)
        if isinstance(wanted, dict):
            found.append(Trial(sizes, resized, wanted))
        if len(found) == most:
            break
    return found


def given_by(network: nn.Module, inputs: Inputs) -> dict[str, Tensor] | str:
    """What a network gives, by name, on the CPU; the first line of its error where it does not run."""
    try:
        with evaluating(network):
            device = device_of(network)
            returned = call(network, map_inputs(inputs, lambda value: value.to(device)))
    except Exception as error:  # noqa: BLE001  (whatever the network's own code raises)
        said = str(error).strip().splitlines() or [""]
        return f"{type(error).__name__}: {said[0][:200]}"
    return {name: value.detach().cpu() for name, value in parts(returned).items()}


def why_fixed(network: nn.Module, inputs: Inputs, axes: Axes) -> str | None:
    """Why a file takes one size only, as a sentence; None where an axis is free, or nobody would expect it.

    Sizes are expected to vary in images and sequences: floating inputs with three axes or more, and tokens.
    """
    wide = [value for _, value in named_values(inputs) if value.ndim > 2 or (value.ndim == 2 and _tokens(value))]
    if axes.free or not wide:
        return None
    if axes.reason is not None:
        return axes.reason
    said = None
    for places in _places(inputs):
        for change in (_larger, _half, _twice):
            wanted = given_by(network, _changed(inputs, places, change))
            if isinstance(wanted, dict):
                return "The network takes other sizes in PyTorch, but torch.export fixes them"
            said = said or wanted
    return f"The network takes no other size ({said})"


def _changed(inputs: Inputs, places: tuple[int, ...], change: Callable[[int], int]) -> Inputs:
    return map_inputs(
        inputs, lambda value: _along(value, {p: change(value.shape[p]) for p in places if p < value.ndim})
    )


def _places(inputs: Inputs) -> Iterator[tuple[int, ...]]:
    """Which axes may vary together: those behind the channels, then those in front of them."""
    rank = max(value.ndim for _, value in named_values(inputs))
    if rank > 3:
        yield tuple(range(2, rank))
    yield (rank - 1,) if rank < 4 else tuple(range(1, rank - 1))
    if rank == 3:
        yield (1,)


def _tokens(value: Tensor) -> bool:
    return not value.is_floating_point() and not value.is_complex()


def _larger(size: int) -> int:
    return size + max(1, size // 2)


def _half(size: int) -> int:
    return max(2, size // 2)


def _twice(size: int) -> int:
    return 2 * size


def _less(size: int) -> int:
    return max(2, size - 1)


def _within(size: int, limits: tuple[int | None, int | None] | None) -> int:
    low, high = limits or (None, None)
    return max(low or 1, size if high is None else min(size, high))


def _sizes(inputs: Inputs, axes: Axes) -> dict[str, int]:
    found: dict[str, int] = {}
    for value, names in _with_axes(inputs, axes):
        found |= {name: value.shape[place] for place, name in enumerate(names) if isinstance(name, str)}
    return {name: size for name, size in found.items() if name != BATCH}


def _resized(inputs: Inputs, axes: Axes, sizes: Mapping[str, int]) -> Inputs:
    """A few examples with free axes of other sizes: cut, or continued from the start."""
    resized = []
    for value, own in _with_axes(inputs, axes):
        wanted = {place: sizes[name] for place, name in enumerate(own) if isinstance(name, str) and name in sizes}
        resized.append(_along(value[:_FEW], wanted))
    given = iter(resized)
    return map_inputs(inputs, lambda _: next(given))


def _along(value: Tensor, sizes: Mapping[int, int]) -> Tensor:
    for place, size in sizes.items():
        if value.shape[place] > 0:
            value = value.index_select(place, torch.arange(size, device=value.device) % value.shape[place])
    return value


def _with_axes(inputs: Inputs, axes: Axes) -> Iterator[tuple[Tensor, tuple[str | int, ...]]]:
    """Each tensor of the inputs, with its axes: keywords by name, others in order."""
    if isinstance(inputs, dict):
        yield from ((value, axes.inputs.get(name, ())) for name, value in inputs.items())
        return
    values = [value for _, value in named_values(inputs)]
    yield from zip(values, axes.inputs.values(), strict=False)
