"""Arithmetic of free sizes in ONNX files, as Python does it.

`//` rounds down in Python and towards zero in ONNX, which differs below zero: the end of `x[: -size // 4]`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes arithmetic of sizes."""
    from onnxscript import opset21

    op: Any = opset21  # its type variables do not know symbolic tensors

    def floordiv(size: Any, other: Any) -> Any:
        if _is_a_size(size) and isinstance(other, int) and other > 0:
            return op.Div(size, other)
        return op.Div(op.Sub(size, op.Mod(size, other)), other)

    return {operator.floordiv: floordiv}


def _is_a_size(value: Any) -> bool:
    """Whether a number is the size of an axis itself, which is never below zero."""
    producer = value.producer() if hasattr(value, "producer") else None
    while producer is not None and producer.op_type in {"Squeeze", "Gather"}:
        producer = producer.inputs[0].producer()
    return producer is not None and producer.op_type == "Shape"
