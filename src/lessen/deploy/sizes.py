"""Free sizes in ONNX files, as Python and PyTorch take them.

`//` rounds down in Python and towards zero in ONNX, which differs below zero: the end of `x[: -size // 4]`. And
`repeat_interleave` as often as a size says is written by the exporter along the axis before the one that repeats.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes arithmetic of sizes."""
    from onnxscript import opset21

    op: Any = opset21  # its type variables do not know symbolic tensors

    def floordiv(size: Any, other: Any) -> Any:
        if _is_a_size(size) and isinstance(other, int) and other > 0:
            return op.Div(size, other)
        return op.Div(op.Sub(size, op.Mod(size, other)), other)

    def repeated(x: Any, repeats: Any, dim: int | None = None, output_size: Any = None) -> Any:
        x = op.Reshape(x, op.Constant(value_ints=[-1])) if dim is None else x
        rank = 1 if dim is None else len(x.shape)
        place = (dim or 0) % rank
        count = (
            op.Constant(value_ints=[repeats])
            if isinstance(repeats, int)
            else op.Reshape(repeats, op.Constant(value_ints=[-1]))
        )
        each = op.Unsqueeze(x, op.Constant(value_ints=[place + 1]))
        before, after = [1] * (place + 1), [1] * (rank - place - 1)
        wanted = [op.Constant(value_ints=before), count, *([op.Constant(value_ints=after)] if after else [])]
        shape = [op.Shape(x, start=0, end=place)] if place else []
        shape += [op.Constant(value_ints=[-1])]
        shape += [op.Shape(x, start=place + 1)] if after else []
        wide = op.Expand(each, op.Concat(*wanted, axis=0))
        return op.Reshape(wide, op.Concat(*shape, axis=0) if len(shape) > 1 else shape[0])

    return {operator.floordiv: floordiv, torch.ops.aten.repeat_interleave.self_int: repeated}


def _is_a_size(value: Any) -> bool:
    """Whether a number is the size of an axis itself, which is never below zero."""
    producer = value.producer() if hasattr(value, "producer") else None
    while producer is not None and producer.op_type in {"Squeeze", "Gather"}:
        producer = producer.inputs[0].producer()
    return producer is not None and producer.op_type == "Shape"
