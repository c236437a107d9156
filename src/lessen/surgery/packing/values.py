"""Values in the shortest form that gives every bit back.

Forms: as they are; in 16 bits, where all of them fit; as codes into a table, where few differ; as whole numbers above
the smallest; as steps of a grid that each row has, where they are known to lie on one.

Shapes: n values, O rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from lessen.core.errors import WeightsError
from lessen.surgery.packing.integers import Array, check_count, deflated, inflated, read_integers, write_integers
from lessen.surgery.packing.stream import Sink, Source

_MOST = 256
"""Tables are not longer than this."""


class Rows(NamedTuple):
    """A symmetric grid for each row, with codes from -limit to limit.

    Args:
        row_n: The row of each value, whole.
        scale: Of each row the step; or, with `ends`, what the largest code stands for. Shape (O,), of the values' type.
        limit: The largest code.
        ends: Whether the network finds the step again by dividing the largest magnitude by `limit`.
    """

    row_n: Array
    scale: Array
    limit: int
    ends: bool

    def at(self, places: Array) -> Rows:
        """The same for some of the values."""
        return self._replace(row_n=self.row_n[places])

    def step_n(self) -> Array:
        """The step of the grid of each value, shape (n,)."""
        step_O: Array = self.scale / self.scale.dtype.type(self.limit) if self.ends else self.scale
        return step_O[self.row_n]

    def nearest(self, values_n: Array) -> Array:
        """The code nearest to each value, halves to even, shape (n,), int64."""
        codes_n: Array = np.clip(np.rint(values_n / self.step_n()), -self.limit, self.limit).astype(np.int64)
        return codes_n

    def values(self, codes_n: Array) -> Array:
        """The values of codes, as a network that rounds to the grid will find them again, shape (n,).

        With `ends` the outermost codes give the largest magnitude itself, not `limit` steps of it: so the grid that
        follows from the values is, to the last bit, the one they were rounded to.
        """
        kind = self.scale.dtype.type
        made: Array = codes_n.astype(kind) * self.step_n()
        if self.ends:
            ends_n = np.sign(codes_n).astype(kind) * self.scale[self.row_n]
            made = np.where(np.abs(codes_n) == self.limit, ends_n, made)
        return made


def write_values(values_n: Array, sink: Sink, rows: Rows | None = None, *, coded: bool = True) -> dict[str, Any]:
    """Write values in the shortest form and give the form.

    Args:
        values_n: Shape (n,), of any type NumPy has; bfloat16 comes as uint16.
        sink: Where to.
        rows: The grid they lie on, if they do.
        coded: Whether frequent values may take fewer bits.
    """
    found: list[tuple[dict[str, Any], Sink]] = []
    for writer in (_as_they_are, _in_half, _by_table, _whole, _on_rows):
        into = Sink()
        form = writer(values_n, into, rows, coded)
        if form is not None:
            found.append((form, into))
    form, short = min(found, key=lambda pair: len(pair[1].content()))
    sink.put(short.content())
    return form


def read_values(
    form: dict[str, Any], source: Source, kind: np.dtype[Any], row_n: Array, count: int, *, rows: int = 0
) -> Array:
    """The values that `write_values` wrote, shape (n,).

    Args:
        form: Its form.
        source: Where from.
        kind: The type of the values.
        row_n: The row of each value, for grids.
        count: How many.
        rows: How many rows there are; no memory is asked for before the form agrees.

    Raises:
        WeightsError: the file is damaged.
    """
    if "plain" in form:
        plain: Array = np.frombuffer(_bytes(form["plain"], source, count * kind.itemsize), kind)
        return plain
    if "half" in form:
        halves = np.frombuffer(_bytes(form["half"], source, count * 2), "<u2")
        return _widened(halves, form["brain"]).astype(kind)
    if "table" in form:
        check_count("entries", form["entries"], _MOST)
        table: Array = _as_written(form["table"], source, kind, form["entries"])
        codes = read_integers(form["codes"], source, count).astype(np.int64)
        if len(codes) and int(codes.max()) >= len(table):
            raise WeightsError(f"A code of {int(codes.max())} is not in a table of {len(table)}. The file is damaged.")
        chosen: Array = table[codes]
        return chosen
    if "above" in form:
        whole: Array = read_integers(form["whole"], source, count).astype(np.int64) + form["above"]
        return whole.astype(kind)
    if "scale" in form:
        check_count("rows", form["rows"], rows)
        scale_O = read_values(form["scale"], source, kind, row_n[:0], form["rows"])
        codes_n = read_integers(form["steps"], source, count).astype(np.int64) - form["limit"]
        return Rows(row_n, scale_O, form["limit"], form["ends"]).values(codes_n)
    raise WeightsError(f"The form {sorted(form)} is not known. The file is damaged, or of a later version.")


def _as_written(form: dict[str, Any], source: Source, kind: np.dtype[Any], count: int) -> Array:
    """A table: it is written as it is, so that forms are never nested."""
    return np.frombuffer(_bytes(form["plain"], source, count * kind.itemsize), kind)


def _as_they_are(values_n: Array, sink: Sink, rows: Rows | None, coded: bool) -> dict[str, Any]:
    return {"plain": _put(np.ascontiguousarray(values_n).tobytes(), sink, coded)}


def _in_half(values_n: Array, sink: Sink, rows: Rows | None, coded: bool) -> dict[str, Any] | None:
    if values_n.dtype.kind != "f" or values_n.dtype.itemsize <= 2:
        return None
    for brain in (False, True):
        narrow = _narrowed(values_n, brain)
        if narrow is not None:
            return {"half": _put(narrow.tobytes(), sink, coded), "brain": brain}
    return None


def _by_table(values_n: Array, sink: Sink, rows: Rows | None, coded: bool) -> dict[str, Any] | None:
    bits_n = _bits(values_n)
    # Where a few values tell that all differ, all need not be sorted.
    if len(np.unique(bits_n[: 8 * _MOST])) > _MOST:
        return None
    table, codes = np.unique(bits_n, return_inverse=True)
    if len(table) > _MOST or not len(values_n):
        return None
    form = {"entries": len(table), "table": {"plain": _put(table.tobytes(), sink, coded)}}
    return {**form, "codes": write_integers(codes, sink, coded=coded)}


def _whole(values_n: Array, sink: Sink, rows: Rows | None, coded: bool) -> dict[str, Any] | None:
    if values_n.dtype.kind not in "biu" or not len(values_n):
        return None
    low, high = int(values_n.min()), int(values_n.max())
    if not -(2**62) < low <= high < 2**62:
        return None
    return {"above": low, "whole": write_integers(values_n.astype(np.int64) - low, sink, coded=coded)}


def _on_rows(values_n: Array, sink: Sink, rows: Rows | None, coded: bool) -> dict[str, Any] | None:
    if rows is None:
        return None
    codes_n = rows.nearest(values_n)
    if not np.array_equal(_bits(rows.values(codes_n)), _bits(values_n)):
        return None
    form = {"scale": write_values(rows.scale, sink, coded=coded), "rows": len(rows.scale)}
    steps = write_integers(codes_n + rows.limit, sink, coded=coded)
    return {**form, "limit": rows.limit, "ends": rows.ends, "steps": steps}


def _put(content: bytes, sink: Sink, coded: bool) -> dict[str, Any]:
    short = deflated(content) if coded else content
    if len(short) < len(content):
        return {"deflated": True, "bytes": sink.put(short)}
    return {"bytes": sink.put(content)}


def _bytes(form: dict[str, Any], source: Source, size: int) -> bytes:
    content = source.take(form["bytes"])
    if form.get("deflated"):
        return inflated(content, size)
    if len(content) != size:
        raise WeightsError(f"A part of {len(content)} bytes should have {size}. The file is damaged.")
    return content


def _bits(values_n: Array) -> Array:
    """Values as bit patterns: -0.0 is not 0.0, and a NaN is equal to itself."""
    plain = np.ascontiguousarray(values_n)
    return plain.view(f"<u{plain.dtype.itemsize}")


def _narrowed(values_n: Array, brain: bool) -> Array | None:
    """The 16 bits of each value, or None where that would lose something."""
    if brain:
        narrow = (values_n.astype("<f4").view("<u4") >> np.uint32(16)).astype("<u2")
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = values_n.astype("<f2").view("<u2")
    with np.errstate(invalid="ignore"):
        again = _widened(narrow, brain).astype(values_n.dtype)
    return narrow if np.array_equal(_bits(again), _bits(values_n)) else None


def _widened(narrow_n: Array, brain: bool) -> Array:
    if brain:
        return (narrow_n.astype("<u4") << np.uint32(16)).view("<f4")
    return narrow_n.view("<f2")
