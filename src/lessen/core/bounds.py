"""A limit to the memory that tensors may ask for, checked before they are made."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lessen.core.errors import LessenError

ROOM = 64 << 20
"""Bytes that are never too many."""


@contextmanager
def bounded(most: int, error: type[LessenError], what: str) -> Iterator[None]:
    """Let new tensors of a block take so many bytes together, temporary ones counted as well.

    A file from somebody else can name a network of any size. The limit holds for functions that are given a size
    (`torch.empty`, `zeros`, `arange` …), through which all parameters and buffers of a new network come.

    Args:
        most: Bytes.
        error: What to raise.
        what: What asks for the memory, for the error.

    Raises:
        LessenError: of the class `error`, before the memory is taken.
    """

    def refuse(asked: int) -> LessenError:
        return error(
            f"{what} needs more than {asked / 2**30:,.1f} GiB of memory, and the limit is {most / 2**30:,.1f} GiB. Its "
            "sizes are wrong, or the file was edited."
        )

    with _Limit(most, refuse):
        yield


class _Limit(TorchDispatchMode):
    def __init__(self, most: int, refuse: Callable[[int], LessenError]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most, self._refuse, self._taken = most, refuse, 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        count = _count(func, args, named)
        if count and str(named.get("device", "cpu")) != "meta":
            kind = named.get("dtype")
            self._taken += count * (kind.itemsize if isinstance(kind, torch.dtype) else 4)
            if self._taken > self._most:
                raise self._refuse(self._taken)
        return func(*args, **named)


def _count(func: Any, args: Sequence[Any], named: Mapping[str, Any]) -> int:
    """How many numbers a factory function makes; 0 for every other function."""
    names = [argument.name for argument in func._schema.arguments]
    given = {**dict(zip(names, args, strict=False)), **named}
    if names and names[0] == "size" and isinstance(given.get("size"), Sequence):
        return math.prod(given["size"])
    if names and names[0] == "self":
        size = given.get("size") if "new_" in func._schema.name or "repeat" in func._schema.name else None
        return math.prod(size) if isinstance(size, Sequence) else 0
    if "end" in names and "steps" not in names and "arange" in func._schema.name:
        step = given.get("step") or 1
        return max(0, int((given["end"] - given.get("start", 0)) / step) + 1)
    if "steps" in names:
        return int(given["steps"])
    if func._schema.name == "aten::eye":
        return int(given["n"]) * int(given.get("m", given["n"]))
    return 0
