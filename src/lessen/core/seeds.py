"""Randomness that depends on what it is for, never on what was drawn before."""

from __future__ import annotations

import functools
import hashlib
import random
import sys
import types
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def derive(seed: int, *purpose: object) -> int:
    """A seed of 63 bits for one purpose, the same on every machine.

    >>> derive(0, "shuffle", 1) == derive(0, "shuffle", 1), derive(0, "shuffle", 1) == derive(0, "shuffle", 2)
    (True, False)
    """
    text = "\0".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: object) -> torch.Generator:
    """A torch generator on the CPU for one purpose."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


@contextmanager
def seeded(seed: int, *purpose: object) -> Iterator[None]:
    """Run a block under its own seed and give torch's global generator back as it was."""
    state = torch.get_rng_state()
    torch.manual_seed(derive(seed, *purpose))
    try:
        yield
    finally:
        torch.set_rng_state(state)


_drawn: ContextVar[int] = ContextVar("the seed that items of datasets draw from", default=0)


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Let the items of datasets that are read in this block draw from a seed (see `Drawing`); 0 outside of any."""
    token = _drawn.set(seed)
    try:
        yield
    finally:
        _drawn.reset(token)


Generators = tuple[Any, ...]
"""Random generators of Python, NumPy and torch that some object holds."""


class Drawing:
    """A block in which someone's own dataset is read: what an item draws depends on the seed and its number alone.

    It draws from the global generators of Python, NumPy and torch, or from its own; all are given back as they were.

    Args:
        own: The generators that the dataset holds (see `generators_of`).
    """

    def __init__(self, own: Generators = ()) -> None:
        self._own = own

    def __enter__(self) -> Drawing:
        self._states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
        self._own_states = [_state(generator) for generator in self._own]
        return self

    def item(self, number: int) -> None:
        """Item `number` is read next."""
        state = (_drawn.get() + (number + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        random.seed(state)
        np.random.seed(state >> 32)
        torch.default_generator.manual_seed(state >> 1)
        for generator in self._own:
            _reseed(generator, state)

    def __exit__(self, *raised: object) -> None:
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])
        torch.set_rng_state(self._states[2])
        for generator, state in zip(self._own, self._own_states, strict=True):
            _restore(generator, state)


_KINDS = (random.Random, np.random.Generator, np.random.RandomState, torch.Generator)

_LOOKED = 20_000
"""Objects that are looked at for generators."""


def generators_of(*holders: Any) -> Generators:
    """The random generators that objects hold in their attributes, containers, and functions, or that those name.

    What was made of a library's class is looked into as well; arrays, tensors and plain values are not.
    """
    found: dict[int, Any] = {}
    seen: set[int] = set()
    waiting: list[Any] = list(holders)
    while waiting and len(seen) < _LOOKED:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, str | bytes | int | float | Tensor | np.ndarray | type(sys)):
            continue
        seen.add(id(value))
        if isinstance(value, _KINDS):
            if not isinstance(value, random.SystemRandom):
                found[id(value)] = value
            continue
        waiting += _inside(value)
    return tuple(found.values())


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        yield from (value.values() if type(value) is dict else ())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from islice(value, 256)
    elif isinstance(value, types.FunctionType):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _filled(cell))
        named = (value.__globals__.get(name) for name in value.__code__.co_names)
        yield from (held for held in named if isinstance(held, _KINDS))
    elif isinstance(value, types.MethodType | types.BuiltinMethodType):
        yield from (value.__self__, getattr(value, "__func__", None))
    elif isinstance(value, functools.partial):
        yield from (value.func, value.args, value.keywords)
    elif not isinstance(value, type):
        yield from getattr(value, "__dict__", {}).values()
        for name in ("__getitem__", "__call__", "forward", "__iter__"):
            if isinstance(function := getattr(type(value), name, None), types.FunctionType):
                yield function


def _filled(cell: types.CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _state(generator: Any) -> Any:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    return generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.set_state(state)


def _reseed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed >> 1)
    elif isinstance(generator, np.random.Generator):
        bits: Any = type(generator.bit_generator)
        generator.bit_generator.state = bits(seed).state
    else:
        generator.seed(seed >> 32)


def uniforms(index_N: Tensor, count: int, *, seed: int) -> Tensor:
    """`count` numbers in [0, 1) for each example, from its index alone: shape (N, count), float32.

    An example draws the same numbers in whatever batch, order, process or run it appears, so augmentation survives
    resuming and splitting over processes. Counter-based: one SplitMix64 step of (seed, index, draw).

    >>> a = uniforms(torch.tensor([7, 3]), 2, seed=1)
    >>> b = uniforms(torch.tensor([3]), 2, seed=1)
    >>> bool((a[1] == b[0]).all())
    True
    """
    index = index_N.cpu().numpy().astype(np.uint64)[:, None]
    draw = np.arange(count, dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):
        state = _mix(index * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed & (2**63 - 1)))
        bits = _mix(state + (draw + np.uint64(1)) * np.uint64(0xD1B54A32D192ED03))
    return torch.from_numpy((bits >> np.uint64(40)).astype(np.float32) / np.float32(2**24))


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = state ^ (state >> np.uint64(31))
    return mixed
