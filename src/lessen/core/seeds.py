"""Randomness that depends on what it is for, never on what was drawn before."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

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


class Drawing:
    """A block in which someone's own dataset is read: what an item draws depends on the seed and its number alone.

    It draws from the global generators of Python, NumPy and torch, which are given back as they were.
    """

    def __enter__(self) -> Drawing:
        self._states = random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()
        return self

    def item(self, number: int) -> None:
        """Item `number` is read next."""
        state = (_drawn.get() + (number + 1) * 0x9E3779B97F4A7C15) & (2**64 - 1)
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
        random.seed(state)
        np.random.seed(state >> 32)
        torch.default_generator.manual_seed(state >> 1)

    def __exit__(self, *raised: object) -> None:
        random.setstate(self._states[0])
        np.random.set_state(self._states[1])
        torch.set_rng_state(self._states[2])


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
