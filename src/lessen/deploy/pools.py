"""Adaptive pooling in ONNX files, for whatever size comes.

The exporter takes pooling to several positions apart with the windows of the size that was traced, and a file that
takes other sizes is then wrong at them. Here the windows are known where the size is; where it is free, the file
computes them: for each pooled position what is outside its window is left out of the sum or the maximum. One axis is
pooled after the other. Not as a product with a matrix: nothing here is work for integer kernels.

Shapes: S positions of an axis, P pooled positions.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

AVERAGE = {
    torch.ops.aten.adaptive_avg_pool1d.default: 1,
    torch.ops.aten.adaptive_avg_pool2d.default: 2,
    torch.ops.aten.adaptive_avg_pool3d.default: 3,
}
"""The operators that average, and over how many axes they pool."""
LARGEST = {
    torch.ops.aten.adaptive_max_pool1d.default: 1,
    torch.ops.aten.adaptive_max_pool2d.default: 2,
    torch.ops.aten.adaptive_max_pool3d.default: 3,
}
"""The same of those that take the largest, and return where it was as well."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes adaptive pooling."""
    from onnx import numpy_helper
    from onnxscript import opset21

    op: Any = opset21  # its type variables do not know symbolic tensors

    def average_over(axes: int) -> Callable[..., Any]:
        def adaptive_average(x: Any, output_size: Sequence[int]) -> Any:
            if list(output_size) == [1] * axes:
                return op.ReduceMean(x, constant(range(-axes, 0), np.int64), keepdims=1)
            window = whole_windows(x, output_size)
            if window is not None:
                return op.AveragePool(x, kernel_shape=window, strides=window)
            result, zero = x, constant(0, x.dtype.numpy())
            for axis, count in changed(x, output_size):
                inside, length = windows_of(x, axis, count)
                total = within(result, inside, zero, op.ReduceSum, turned(axis, len(x.shape)))
                lengths = op.Reshape(op.CastLike(length, x), constant([count, *[1] * (-1 - axis)], np.int64))
                result = op.Div(total, lengths)
            return result

        return adaptive_average

    def largest_over(axes: int) -> Callable[..., Any]:
        def adaptive_largest(x: Any, output_size: Sequence[int]) -> Any:
            if list(output_size) == [1] * axes:
                return op.ReduceMax(x, constant(range(-axes, 0), np.int64), keepdims=1), nowhere()
            window = whole_windows(x, output_size)
            if window is not None:
                return op.MaxPool(x, kernel_shape=window, strides=window)[0], nowhere()
            result, lowest = x, constant(np.finfo(x.dtype.numpy()).min, x.dtype.numpy())
            for axis, count in changed(x, output_size):
                inside, _ = windows_of(x, axis, count)
                result = within(result, inside, lowest, op.ReduceMax, turned(axis, len(x.shape)))
            return result, nowhere()

        return adaptive_largest

    def nowhere() -> Any:
        """For the places of the largest, which nobody reads (`places_are_read`)."""
        return constant(0, np.int64)

    def within(x: Any, inside: Any, other: Any, reduce: Any, turn: list[int]) -> Any:
        """The axis that a turn makes the last one, reduced over each window; what is outside has another value."""
        each = op.Unsqueeze(op.Transpose(x, perm=turn), constant([-2], np.int64))
        return op.Transpose(reduce(op.Where(inside, each, other), constant([-1], np.int64), keepdims=0), perm=turn)

    def whole_windows(x: Any, output_size: Sequence[int]) -> list[int] | None:
        """The windows, where all of an axis are equally long and none overlaps another; as far as is known."""
        sizes = list(x.shape)[-len(output_size) :]
        known = all(isinstance(size, int) for size in (*sizes, *output_size))
        if not known or len(x.shape) != len(output_size) + 2 or any(map(int.__mod__, sizes, output_size)):
            return None
        return [size // count for size, count in zip(sizes, output_size, strict=True)]

    def changed(x: Any, output_size: Sequence[int]) -> list[tuple[int, int]]:
        """The axes to pool, and to how many positions."""
        pairs = zip(range(-len(output_size), 0), output_size, strict=True)
        return [(axis, count) for axis, count in pairs if x.shape[axis] != count]

    def windows_of(x: Any, axis: int, count: int) -> tuple[Any, Any]:
        """Which positions are in the window of each pooled one (P, S), and how many (P, 1)."""
        rank, size = len(x.shape), x.shape[axis]
        if isinstance(size, int):
            inside = windows(size, count)
            return constant(inside, np.bool_), constant(inside.sum(1, keepdims=True), np.int64)
        length = op.Shape(x, start=rank + axis, end=rank + axis + 1)
        number, many = constant(np.arange(count)[:, None], np.int64), constant(count, np.int64)
        first = op.Div(op.Mul(number, length), many)
        after = op.Mul(op.Add(number, constant(1, np.int64)), length)
        last = op.Div(op.Add(after, constant(count - 1, np.int64)), many)
        scalar = op.Squeeze(length, constant([0], np.int64))
        place = op.Range(constant(0, np.int64), scalar, constant(1, np.int64))
        return op.And(op.GreaterOrEqual(place, first), op.Less(place, last)), op.Sub(last, first)

    def turned(axis: int, rank: int) -> list[int]:
        """The order of axes in which one and the last change places."""
        order = list(range(rank))
        order[axis], order[-1] = order[-1], order[axis]
        return order

    def constant(value: Any, kind: Any) -> Any:
        return op.Constant(value=numpy_helper.from_array(np.asarray(value, dtype=kind)))

    average = {pool: average_over(axes) for pool, axes in AVERAGE.items()}
    return average | {pool: largest_over(axes) for pool, axes in LARGEST.items()}


def places_are_read(program: torch.export.ExportedProgram) -> bool:
    """Whether a program reads where the largest were; then these translations do not serve."""
    return any(
        user.target is not operator.getitem or user.args[1] != 0
        for node in program.graph.nodes
        if node.target in LARGEST
        for user in node.users
        if user.users
    )


def windows(size: int, count: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which positions of an axis are in the window of each pooled one (P, S).

    >>> windows(3, 2).astype(int).tolist()
    [[1, 1, 0], [0, 1, 1]]
    """
    number, place = np.arange(count)[:, None], np.arange(size)[None]
    inside: np.ndarray[Any, np.dtype[np.bool_]] = (place >= number * size // count) & (
        place < -(-(number + 1) * size // count)
    )
    return inside
