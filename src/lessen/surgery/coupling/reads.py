"""Numbers that a network's own code reads from the shapes of its tensors.

`x.reshape(len(x), -1, channels)` is right after pruning where `channels` was read from a tensor whose axis loses as
much as the result does. So the code is run once with shapes whose numbers remember where they were read, and how they
were computed since; each call of a function is written down with the numbers it was given.

Calls are named as `torch.export` names them in its graph: ("reshape_3", "method_descriptor.reshape") is the third.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lessen.core.data import Inputs, call
from lessen.core.seeds import seeded
from lessen.surgery.calls import Place, Watch
from lessen.surgery.copying import copy_network
from lessen.surgery.modules import tensor_names

Key = tuple[str, str]


@dataclass(frozen=True)
class Dim:
    """One number of the shape of a tensor.

    Args:
        tensor: The tensor's makers, the last one first: each the name of a call and which of its results it is, the
            name of a parameter or buffer and 0, or "" and the number of an input.
        dim: Which axis.
    """

    tensor: tuple[tuple[Key | str, int], ...]
    dim: int


@dataclass(frozen=True)
class Computed:
    """What was computed of numbers, of which one at least was read from a shape."""

    function: Callable[[int, int], int]
    left: Origin
    right: Origin


Origin = Dim | Computed | int


class Read(int):
    """A number that was read from a shape, or computed from one."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> Self:
        made = super().__new__(cls, value)
        made.origin = origin
        return made

    def __mul__(self, other: Any) -> Any:
        return _computed(operator.mul, self, other)

    def __rmul__(self, other: Any) -> Any:
        return _computed(operator.mul, other, self)

    def __add__(self, other: Any) -> Any:
        return _computed(operator.add, self, other)

    def __radd__(self, other: Any) -> Any:
        return _computed(operator.add, other, self)

    def __sub__(self, other: Any) -> Any:
        return _computed(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return _computed(operator.sub, other, self)

    def __floordiv__(self, other: Any) -> Any:
        return _computed(operator.floordiv, self, other)

    def __rfloordiv__(self, other: Any) -> Any:
        return _computed(operator.floordiv, other, self)


def _computed(function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
    plain = [int(side) if isinstance(side, Read) else side for side in (left, right)]
    value = function(*plain)
    if type(value) is not int:
        return value
    sides = [side.origin if isinstance(side, Read) else side for side in (left, right)]
    return Read(value, Computed(function, sides[0], sides[1]))


@dataclass
class Reads:
    """What one run of the code has shown.

    Args:
        numbers: For each call the whole numbers it was given, in order; those read from a shape are a `Read`.
        sites: For each call its name in `surgery.calls`.
    """

    numbers: dict[Key, list[int]] = field(default_factory=dict)
    sites: dict[Key, str] = field(default_factory=dict)

    def origin(self, key: Key | None, value: int, place: int | None) -> Origin:
        """Where a number given to a call comes from: itself where it was not read from a shape.

        Args:
            key: The call.
            value: The number.
            place: Which of the whole numbers of the call it is; None where that is not known.
        """
        given = self.numbers.get(key, []) if key is not None else []
        meant = given[place : place + 1] if place is not None else given
        found = [number for number in meant if number == value]
        if not found or not all(isinstance(number, Read) for number in found):
            return value
        first = found[0]
        return first.origin if isinstance(first, Read) else value


class _Reader(Watch):
    def __init__(self, model: nn.Module, inputs: Inputs) -> None:
        super().__init__(model)
        self.reads = Reads()
        self._counts: Counter[Any] = Counter()
        self._makers: dict[int, tuple[tuple[Key | str, int], ...]] = {}
        self._alive: list[Tensor] = []  # an id is only an identity while the tensor lives
        for key, names in tensor_names(model).items():
            self._makers[key] = ((names[0], 0),)
        for number, value in enumerate(leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)):
            self._made(value, "", number)

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        if run in _SHAPES:
            return self._read(args[0], result, args[1] if len(args) > 1 else kwargs.get("dim"))
        name = run.__name__
        self._counts[run] += 1
        key = (f"{name}_{self._counts[run]}", f"{type(run).__name__}.{name}")
        self.reads.sites[key] = place.site
        given = [number for value in tree_leaves((args, kwargs)) for number in _whole_numbers(value)]
        if given:
            self.reads.numbers[key] = given
        for number, value in enumerate(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)):
            self._made(value, key, number)
        return result

    def _read(self, tensor: Tensor, result: Any, dim: int | None) -> Any:
        makers = self._makers.get(id(tensor), ())
        if isinstance(result, torch.Size):
            return torch.Size([Read(size, Dim(makers, number)) for number, size in enumerate(result)])
        return Read(result, Dim(makers, (dim or 0) % tensor.ndim))

    def _made(self, tensor: Tensor, by: Key | str, number: int) -> None:
        self._alive.append(tensor)
        self._makers[id(tensor)] = ((by, number), *self._makers.get(id(tensor), ()))


def _whole_numbers(value: Any) -> Iterator[int]:
    parts = (value.start, value.stop, value.step) if isinstance(value, slice) else (value,)
    yield from (part for part in parts if type(part) in {int, Read})


_SHAPES = (Tensor.shape.__get__, Tensor.size)  # type: ignore[attr-defined]


def read_numbers(model: nn.Module, inputs: Inputs) -> Reads:
    """Run a network once, as it is, and see which numbers it reads from shapes; nothing if it cannot run.

    Its buffers and the global generator are left as they were, whatever it does to them.
    """
    work = copy_network(model, {id(parameter): parameter for parameter in model.parameters()})
    reader = _Reader(work, inputs)
    try:
        with torch.no_grad(), seeded(0, "reads"), reader:
            call(work, inputs)
    except Exception:  # noqa: BLE001  (code that takes no number of another class; then nothing is known)
        return Reads()
    return reader.reads
