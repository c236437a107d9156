"""The files of a cache: one array a tap, and `cache.json`, which says what it is a cache of, with checksums of all.

Names of files follow from the taps, so nothing outside the folder is ever read.

Shapes: N examples, C outputs, K kept of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from lessen.core.errors import RunError
from lessen.core.files import check_regular
from lessen.core.sealed import read_sealed, write_sealed
from lessen.surgery.taps import Tap

DTYPES = {"float16": torch.float16, "float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
_ADVICE = "Remove the folder of the cache, and it is filled again."


class Entry(BaseModel):
    """What is stored of one tap.

    Args:
        dtype: Of the values as the node gives them.
        shape: Of the values of one example.
        classes: How many there are, if only the largest values are kept.
        checksums: Of the files of the tap, sha256.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    dtype: Literal["float16", "float32", "float64", "bfloat16"]
    shape: list[int]
    classes: int | None = Field(default=None, ge=1)
    checksums: list[str] = []

    def files(self, tap: Tap) -> list[str]:
        """The names of the files of the tap: its values, and the places of those that are kept."""
        stem = hashlib.sha256(tap_name(tap).encode()).hexdigest()[:12]
        return [f"{stem}.npy", *([f"{stem}.places.npy"] if self.classes is not None else [])]


class About(BaseModel):
    """What a cache is of.

    Args:
        key: The teacher, the view, the examples, and how they are stored.
        taps: What is stored, by the name of the tap.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    key: dict[str, Any]
    taps: dict[str, Entry]

    def write(self, folder: Path) -> None:
        """Write it, whole or not at all."""
        write_sealed(folder / "cache.json", self.model_dump(mode="json"))

    @classmethod
    def read(cls, folder: Path, key: Mapping[str, Any]) -> About:
        """What the cache in a folder is of.

        Raises:
            RunError: it is damaged, or of something else.
        """
        path = folder / "cache.json"
        try:
            about = cls.model_validate(read_sealed(path, advice=_ADVICE))
        except ValidationError as error:
            raise RunError(f"{path} is damaged: {str(error).splitlines()[2].strip()}. {_ADVICE}") from error
        for name, value in key.items():
            found = about.key.get(name)
            if found != value:
                raise RunError(
                    f"The cache in {folder} was made with another setting of {name!r} ({found!r}, not {value!r}). "
                    "Choose another folder, or remove this one."
                )
        return about


class Reader:
    """Reads what a node gave for examples by their numbers.

    Args:
        folder: Of the cache.
        taps: What is stored of each.
        shapes: What the node gives for one example, by tap.
        count: How many examples there are.
        device: Where the values are needed.

    Raises:
        RunError: a file is missing or damaged, or is not what the node gives.
    """

    def __init__(
        self,
        folder: Path,
        taps: Mapping[Tap, Entry],
        *,
        shapes: Mapping[Tap, tuple[int, ...]],
        count: int,
        device: torch.device,
    ) -> None:
        self._device = device
        self._taps: dict[Tap, tuple[Entry, list[Tensor]]] = {}
        for tap, entry in taps.items():
            arrays = [_open(folder / name, count) for name in entry.files(tap)]
            if not _fits(arrays, entry, shapes.get(tap)):
                found = [tuple(array.shape) for array in arrays]
                raise RunError(f"{folder} does not match the outputs of {str(tap)!r}: {found}. {_ADVICE}")
            self._taps[tap] = (entry, arrays)

    def __call__(self, index_N: Tensor) -> dict[Tap, Any]:
        """The values of some examples, by tap."""
        index_N = index_N.cpu()
        found: dict[Tap, Any] = {}
        for tap, (entry, arrays) in self._taps.items():
            value = arrays[0].index_select(0, index_N).to(self._device, DTYPES[entry.dtype])
            if entry.classes is not None:
                value = spread_top(
                    value, arrays[1].index_select(0, index_N).to(self._device, torch.int64), entry.classes
                )
            found[tap] = value
        return found

    def differs(self, index_N: Tensor, now: Mapping[Tap, Any]) -> Tap | None:
        """The first tap whose stored values are not those that the node gives now, up to rounding; None for none."""
        for tap, stored in self(index_N).items():
            entry, arrays = self._taps[tap]
            one, two = now[tap].float(), stored.float()
            if entry.classes is not None:
                place_NK = arrays[1][index_N.cpu()].to(one.device, torch.int64)
                one, two = one.log_softmax(-1).gather(-1, place_NK), two.gather(-1, place_NK)
            if not bool(((one - two).abs() <= 1e-2 * one.abs().amax() + 1e-6).all()):
                return tap
        return None


def keep_top(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest log-probabilities, the log of the mass of all others behind them, and their places.

    Shapes: logits (N, C) -> (N, K + 1) and (N, K); with positions (N, L, C) -> (N, L, K + 1) and (N, L, K).

    >>> values, places = keep_top(torch.tensor([[0.0, 0.0, 0.0, 0.0]]), 2)
    >>> values.exp().round(decimals=3)
    tensor([[0.2500, 0.2500, 0.5000]])
    """
    top, place = logits.float().log_softmax(-1).topk(count, dim=-1)
    tail = (1 - top.exp().sum(-1, keepdim=True)).clamp_min(1e-7).log()
    return torch.cat([top, tail], dim=-1), place


def spread_top(values: Tensor, place: Tensor, classes: int) -> Tensor:
    """Log-probabilities that sum to one: the kept ones in their places, the tail spread evenly over the others.

    Shapes: values (N, K + 1) and places (N, K) -> (N, C); with positions (N, L, K + 1) and (N, L, K) -> (N, L, C).

    >>> values, places = keep_top(torch.tensor([[4.0, 2.0, 0.0, 0.0]]), 2)
    >>> dense = spread_top(values, places, 4)
    >>> torch.allclose(dense, torch.tensor([[4.0, 2.0, 0.0, 0.0]]).log_softmax(1), atol=1e-6)
    True
    """
    count = place.shape[-1]
    if count == classes:
        dense = values.new_empty(*values.shape[:-1], classes)
    else:
        each = values[..., -1:] - float(np.log(classes - count))
        dense = each.expand(*each.shape[:-1], classes).clone()
    dense.scatter_(-1, place, values[..., :count])
    return dense.log_softmax(-1)


def check_files(folder: Path, tap: Tap, entry: Entry) -> None:
    """Whether the files of a tap are what was written.

    Raises:
        RunError: one is missing or damaged.
    """
    for name, expected in zip(entry.files(tap), entry.checksums or [""] * 2, strict=False):
        if checksum(folder / name) != expected:
            raise RunError(f"{folder / name} is damaged: its checksum is not the one in cache.json. {_ADVICE}")


def checksum(path: Path) -> str:
    """The sha256 of a file."""
    check_regular(path, expected=f"an array of a cache. {_ADVICE}")
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}. {_ADVICE}") from error


def tap_name(tap: Tap) -> str:
    """A tap as one word."""
    name = f"{tap.side}:{tap.path}" + ("" if tap.call is None else f"[{tap.call}]")
    return name if tap.part is None else f"{name}@{tap.part}"


def _open(path: Path, count: int) -> Tensor:
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        tensor: Tensor = torch.from_numpy(array)
    except (OSError, ValueError, TypeError, EOFError, SyntaxError) as error:
        raise RunError(f"{path} is damaged: {error}. {_ADVICE}") from error
    if tensor.ndim == 0 or len(tensor) != count:
        raise RunError(
            f"{path} is not an array of {count} examples, but has the shape {tuple(tensor.shape)}. {_ADVICE}"
        )
    return tensor


def _fits(arrays: list[Tensor], entry: Entry, shape: tuple[int, ...] | None) -> bool:
    """Whether arrays can be what a node gives, which has this shape for one example."""
    values = arrays[0]
    if not values.is_floating_point():
        return False
    if entry.classes is None:
        return tuple(values.shape[1:]) == shape
    place = arrays[1]
    if shape is None or entry.classes != shape[-1] or values.ndim != 1 + len(shape) or place.dtype != torch.int32:
        return False
    if place.ndim != values.ndim or place.shape[:-1] != values.shape[:-1] or tuple(place.shape[1:-1]) != shape[:-1]:
        return False
    return 0 < place.shape[-1] == values.shape[-1] - 1 and 0 <= int(place.min()) <= int(place.max()) < entry.classes
