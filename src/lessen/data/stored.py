"""Arrays of any type, in memory or mapped from a file: kept as they are, and converted batch by batch.

A mapped file stays on the disk. Its pages are given back after each batch and each block, so that a file of any size
takes as much memory as the batches that are on their way.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lessen.core.ahead import HERE, Loading, threads
from lessen.core.batch import IGNORED, Batch, Inputs
from lessen.core.content import Content
from lessen.core.errors import DataError
from lessen.core.examples import rows

Stored = Tensor | NDArray[Any]
"""One array, examples along axis 0."""

StoredInputs = Stored | tuple[Stored, ...] | dict[str, Stored]
"""What a network is called with, for all examples."""

LARGE = 64 * 2**20
"""Bytes from which a mapped file is read ahead by threads, and an array in a file is mapped at all."""

MAPPED = 32 * 2**20
"""Bytes of a file that are mapped at a time while rows are picked from it."""

HUGE_PAGE = 2 * 2**20
"""Bytes that reading one byte can map, where the cache of the file system uses huge pages."""

BLOCK = 4 * 2**20
"""Bytes that are read at a time where all of an array is looked at."""


@dataclass(frozen=True)
class StoredExamples:
    """Examples in arrays of any type.

    Inputs of type uint8 become float32 on the scale of 0 to 1; other integers and truth values become int64, all
    floating point float32. Labels become int64 or float32.

    Args:
        inputs: Array(s) with examples along axis 0.
        targets: Labels, shape (N, ...), or None.
        ignored: The label of positions that do not count; it becomes -100.
    """

    inputs: StoredInputs
    targets: Stored | None = None
    ignored: int | None = None

    def __len__(self) -> int:
        return int(next(_each(self.inputs)).shape[0])

    @cached_property
    def labels(self) -> Tensor | None:
        """The labels, where each is one number: shape (N,)."""
        return None if self.targets is None or self.targets.ndim != 1 else label_of(self.targets, self.ignored)

    @cached_property
    def loading(self) -> Loading:
        """By threads where a large file is mapped; what is in memory is fetched when asked for."""
        mapped = sum(array.nbytes for array in _each(self.inputs) if mapping_of(array) is not None)
        return Loading(threads=threads()) if mapped >= LARGE else HERE

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        labels = self.labels
        if labels is not None:
            labels = rows(labels, index_N)
        elif self.targets is not None:
            labels = label_of(pick(self.targets, index_N), self.ignored)
        return Batch(map_stored(self.inputs, lambda array: as_input(pick(array, index_N))), index_N, labels)

    @cached_property
    def content(self) -> tuple[str, str]:
        """The digests of the inputs and of the labels."""
        inputs, labels = Content(), Content()
        for name, array in self.inputs.items() if isinstance(self.inputs, dict) else enumerate(_each(self.inputs)):
            inputs.text(str(name))
            inputs.array(array.shape, array.dtype, (block for _, block in blocks(array)))
        if self.targets is not None:
            labels.array(self.targets.shape, self.targets.dtype, (block for _, block in blocks(self.targets)))
            if self.ignored is not None:
                labels.text(f"without {self.ignored}")
        return inputs.hexdigest(), labels.hexdigest()

    def check(self, what: str) -> None:
        """Look for NaN and infinity, block by block; integers are not looked at.

        Raises:
            DataError: there is one; the text names an example.
        """
        for array in _each(self.inputs):
            kind = array.dtype.is_floating_point if isinstance(array, Tensor) else array.dtype.kind == "f"
            for first, block in blocks(array) if kind else ():
                good = _finite(block)
                if not bool(good.all()):
                    row = first + int((~good).reshape(len(good), -1).any(1).nonzero()[0][0])
                    raise DataError(
                        f"NaN or infinity in the inputs of {what}, in example {row} among others. Clean the data."
                    )


def stored(value: Any, what: str) -> Stored:
    """An array that is kept as it is, checked before anything is read or copied.

    Args:
        value: A NumPy array, a tensor, or what NumPy makes an array of.
        what: What to call it in an error.

    Raises:
        DataError: it is not an array of real numbers that is in memory or mapped.
    """
    advice = "Give NumPy arrays or torch tensors of real numbers, with classes numbered from 0."
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_quantized or value.is_meta or value.is_complex():
            raise DataError(
                f"The {what} are a tensor of {value.dtype}, layout {value.layout}, on {value.device}. {advice}"
            )
        return value.detach()
    try:
        array: NDArray[Any] = np.asanyarray(value)
        if array.dtype.kind in "biuf":
            torch.from_numpy(np.empty(0, array.dtype.newbyteorder("=")))
            return array
        error: object = f"its type is {array.dtype}"
    except (TypeError, ValueError, RuntimeError) as caught:
        error = caught
    raise DataError(f"The {what} are a {type(value).__name__} that is not an array of numbers ({error}). {advice}")


def stored_inputs(value: Any) -> StoredInputs:
    """What a network is called with: one array, several in a tuple or list, or some by name.

    Raises:
        DataError: one of them is not an array of real numbers.
    """
    if isinstance(value, Mapping):
        return {str(name): stored(item, f"inputs {name!r}") for name, item in value.items()}
    if isinstance(value, tuple | list) and value and isinstance(value[0], np.ndarray | Tensor):
        return tuple(stored(item, "inputs") for item in value)
    return stored(value, "inputs")


def as_input(array: Stored) -> Tensor:
    """Rows of an array as a network takes them: pixels (uint8) on the scale of 0 to 1, words int64, all else float32.

    NumPy converts what comes from a mapped file, in a thread that is not torch's.
    """
    if isinstance(array, Tensor):
        if array.dtype == torch.uint8:
            return array.float().div_(255)
        return array.float() if array.is_floating_point() else array.long()
    if array.dtype == np.uint8:
        pixels = array.astype(np.float32)
        pixels /= np.float32(255)
        return torch.from_numpy(pixels)
    with np.errstate(over="ignore"):  # as torch: infinite, which is looked for
        return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


def as_label(array: Stored) -> Tensor:
    """Labels: float32 where they are floating point, else int64."""
    if isinstance(array, Tensor):
        return array.float() if array.is_floating_point() else array.long()
    with np.errstate(over="ignore"):
        return torch.from_numpy(array.astype(np.float32 if array.dtype.kind == "f" else np.int64))


def label_of(labels: Stored, ignored: int | None) -> Tensor:
    """Labels as `as_label` makes them; those that are ignored are `IGNORED`."""
    made = as_label(labels)
    if ignored is None or made.is_floating_point():
        return made
    return made.masked_fill(made == ignored, IGNORED)


def pick(array: Stored, index_N: Tensor) -> Stored:
    """A copy of some rows; those of a mapped file are read in the order in which they lie in it."""
    if isinstance(array, Tensor):
        return array.index_select(0, index_N.to(array.device))
    index = index_N.numpy()
    if mapping_of(array) is None:
        found = array[index]
        return torch.from_numpy(found if found.dtype.isnative else found.astype(found.dtype.newbyteorder("=")))
    order = np.argsort(index)
    found = np.empty((len(index), *array.shape[1:]), array.dtype.newbyteorder("="))
    step = max(1, MAPPED // (HUGE_PAGE + found.nbytes // max(1, len(index))))
    for first in range(0, len(index), step):
        some = order[first : first + step]
        found[some] = array[index[some]]
        release(array)
    return found


def blocks(array: Stored) -> Iterator[tuple[int, Stored]]:
    """All of an array in pieces along axis 0, each with the number of its first row; no copy is made."""
    count = max(1, BLOCK // max(1, array.nbytes // max(1, len(array))))
    for first in range(0, len(array), count):
        yield first, array[first : first + count]
        release(array)


def mapping_of(array: Stored) -> mmap.mmap | None:
    """The mapped file that an array reads from, or None where it is in memory."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def release(array: Stored) -> None:
    """Give the pages of a mapped file back; they stay in the cache of the file system, which takes them for free.

    A private mapping (`mmap_mode="c"`) is left alone, since its pages may hold what was written to them.
    """
    mapping = mapping_of(array)
    owner: Any = array
    if mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
        return
    while isinstance(owner, np.ndarray) and not isinstance(owner, np.memmap):
        owner = owner.base
    if isinstance(owner, np.memmap) and owner.mode in {"r", "r+", "w+"}:
        mapping.madvise(mmap.MADV_DONTNEED)


def same_length(inputs: StoredInputs, targets: Stored | None, what: str) -> None:
    """Whether every array holds as many examples as the others.

    Raises:
        DataError: it does not; the text lists how many each holds.
    """
    arrays = [*_each(inputs), *([] if targets is None else [targets])]
    lengths = [array.shape[0] if array.ndim else -1 for array in arrays]
    if not list(_each(inputs)) or -1 in lengths or len(set(lengths)) > 1:
        raise DataError(
            f"The arrays of {what} hold {lengths} examples along their first axis (inputs first, labels last). "
            "Every one must hold the same number."
        )


def _finite(block: Stored) -> Any:
    """Which numbers are finite, and still are when they are float32."""
    if block.dtype.itemsize > 4:
        return torch.isfinite(as_input(block))
    return torch.isfinite(block) if isinstance(block, Tensor) else np.isfinite(block)


def _each(inputs: StoredInputs) -> Iterator[Stored]:
    if isinstance(inputs, dict):
        yield from inputs.values()
    elif isinstance(inputs, tuple):
        yield from inputs
    else:
        yield inputs


def map_stored(inputs: StoredInputs, function: Callable[[Stored], Tensor]) -> Inputs:
    """Make tensors of all arrays of the inputs."""
    if isinstance(inputs, dict):
        return {name: function(array) for name, array in inputs.items()}
    if isinstance(inputs, tuple):
        return tuple(function(array) for array in inputs)
    return function(inputs)
