"""One tensor as bytes, in the shortest form that gives every bit back: dense or sparse, and its values in few bits.

Shapes: n values in the tensor, k of them kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lessen.core.errors import WeightsError
from lessen.surgery.packing.integers import Array
from lessen.surgery.packing.positions import read_positions, write_positions
from lessen.surgery.packing.stream import Sink, Source
from lessen.surgery.packing.values import Rows, read_values, write_values

_TYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int64": torch.int64,
    "int32": torch.int32,
    "int16": torch.int16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "bool": torch.bool,
}


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known of a tensor beside its values; all of it only makes the file shorter.

    Args:
        kept: A mask on it: where it is True a weight may stand, also one that is zero. It is written with the tensor.
        grid: The grids on which its values lie.
        behind: Where another tensor says what stands at places that are not kept; None for zeros.
    """

    kept: Tensor | None = None
    grid: Lattice | None = None
    behind: Behind | None = None


@dataclass(frozen=True, kw_only=True)
class Behind:
    """The tensor, by name, that says what an empty place holds: as the codes of zero do for the codes of weights.

    Args:
        name: Its name; its shape is (O, G).
        group: How many places along the last axis share a number.
    """

    name: str
    group: int

    def spread(self, numbers_OG: Tensor, shape: tuple[int, ...]) -> Tensor:
        """What each place of a tensor of shape (O, I) holds."""
        return numbers_OG.repeat_interleave(self.group, 1)[:, : shape[1]]


@dataclass(frozen=True, kw_only=True)
class Lattice:
    """A symmetric grid for each index along an axis.

    Args:
        axis: The axis.
        limit: The largest code.
        scale: For each index the step, positive; or, with `ends`, what the largest code stands for. Shape (O,).
        ends: Whether the network finds the step again by dividing the largest magnitude by `limit`.
    """

    axis: int
    limit: int
    scale: Tensor
    ends: bool

    def rows(self, shape: tuple[int, ...]) -> Rows:
        """The same for the values of a tensor of this shape, one behind the other."""
        return Rows(_row_numbers(shape, self.axis), _flat(self.scale), self.limit, self.ends)

    def round(self, tensor: Tensor) -> Tensor:
        """The tensor rounded to its grids."""
        rows = self.rows(tuple(tensor.shape))
        return _tensor(rows.values(rows.nearest(_flat(tensor))), tensor.dtype, tuple(tensor.shape))


NOTHING = Known()


def write_tensor(
    tensor: Tensor, sink: Sink, known: Known = NOTHING, behind: Tensor | None = None, *, coded: bool = True
) -> dict[str, Any]:
    """Write a tensor and give the form, from which `read_tensor` gives every bit back.

    Args:
        tensor: Any shape, of a type that safetensors has.
        sink: Where to.
        known: What is known of it.
        behind: What stands at places that are not kept, the tensor's shape; None for zeros.
        coded: Whether frequent numbers may take fewer bits.

    Raises:
        WeightsError: the tensor is of a type that cannot be written.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    if name not in _TYPES:
        raise WeightsError(f"A tensor of {name} cannot be written; known types are {', '.join(_TYPES)}.")
    values_n, back_n = _flat(tensor), None if behind is None else _flat(behind)
    rows = None if known.grid is None else known.grid.rows(tuple(tensor.shape))
    stands_n = _flat(known.kept) if known.kept is not None else _differs(values_n, back_n)
    found = []
    if known.kept is None:
        dense = Sink()
        found.append((write_values(values_n, dense, rows, coded=coded), dense))
    if known.kept is not None or not stands_n.all():
        sparse, places = Sink(), np.flatnonzero(stands_n)
        form = {"at": write_positions(stands_n, sparse, coded=coded)}
        own = None if rows is None else rows.at(places)
        found.append(({**form, "values": write_values(values_n[places], sparse, own, coded=coded)}, sparse))
    form, short = min(found, key=lambda pair: len(pair[1].content()))
    sink.put(short.content())
    axis = {} if known.grid is None else {"axis": known.grid.axis}
    return {"type": name, "shape": list(tensor.shape), **axis, "form": form}


def read_tensor(form: dict[str, Any], source: Source, behind: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
    """The tensor that `write_tensor` wrote, and the places at which it stands, or None where it is dense.

    Args:
        form: Its form.
        source: Where from.
        behind: What stands at the other places, as it was given to `write_tensor`.

    Raises:
        WeightsError: the file is damaged.
    """
    shape, kind = tuple(form["shape"]), _TYPES.get(form["type"])
    if kind is None or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise WeightsError(f"A tensor of {form['type']!r} and {shape} is not known. The file is damaged.")
    count, number, inner = math.prod(shape), _numpy(kind), form["form"]
    # Without grids nothing asks for rows, and none are made: they are eight bytes a value.
    rows_n, rows = np.broadcast_to(np.int64(0), count), 0
    if "axis" in form:
        rows_n, rows = _row_numbers(shape, form["axis"]), shape[form["axis"]] if shape else 1
    if "at" not in inner:
        return _tensor(read_values(inner, source, number, rows_n, count, rows=rows), kind, shape), None
    stands_n = read_positions(inner["at"], source, count)
    places = np.flatnonzero(stands_n)
    made_n = np.zeros(count, number) if behind is None else _flat(behind).astype(number)
    made_n[places] = read_values(inner["values"], source, number, rows_n[places], len(places), rows=rows)
    return _tensor(made_n, kind, shape), torch.from_numpy(stands_n.reshape(shape))


def _row_numbers(shape: tuple[int, ...], axis: int) -> Array:
    if not shape:
        return np.zeros(1, np.int64)
    along = np.arange(shape[axis]).reshape([-1 if place == axis % len(shape) else 1 for place in range(len(shape))])
    return np.broadcast_to(along, shape).reshape(-1)


def _differs(values_n: Array, back_n: Array | None) -> Array:
    """Where a value is not the background's; by bits, so that -0.0 is kept."""
    if back_n is not None:
        return np.not_equal(values_n, back_n)
    stands_n: Array = values_n.view(f"<u{values_n.dtype.itemsize}") != 0
    return stands_n


def _flat(tensor: Tensor) -> Array:
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    values_n: Array = plain.view(torch.uint16).numpy() if plain.dtype == torch.bfloat16 else plain.numpy()
    return values_n


def _numpy(kind: torch.dtype) -> np.dtype[Any]:
    return np.dtype(np.uint16) if kind == torch.bfloat16 else torch.empty(0, dtype=kind).numpy().dtype


def _tensor(values_n: Array, kind: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    made = torch.from_numpy(np.array(values_n))
    return (made.view(torch.bfloat16) if kind == torch.bfloat16 else made).reshape(shape)
