"""Quantize / dequantize pairs in an ONNX file: how the exporter writes our operators.

A rounding is written as QuantizeLinear -> (Clip) -> DequantizeLinear, whose step and code of zero become constants also
where they learned. `lessen.deploy.integers` then carries out what is constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch

from lessen.deploy.constants import Constants
from lessen.deploy.forms.base import Twin
from lessen.deploy.integers import store_integers
from lessen.operations.quantize.fake import SMALLEST
from lessen.operations.quantize.operators import decompositions


class GridTwin(Twin):
    """What a quantized network rounds."""

    order: ClassVar[int] = 0

    def translations(self) -> dict[Any, Callable[..., Any]]:
        """Each rounding is a pair."""
        from onnx import TensorProto, numpy_helper
        from onnxscript import opset21

        op: Any = opset21  # its type variables do not know symbolic tensors

        def fake_quantize(x: Any, scale: Any, zero_point: Any, *, low: int, high: int) -> Any:
            zero = op.Cast(zero_point, to=TensorProto.UINT8)
            code = op.QuantizeLinear(x, scale, zero)
            if (low, high) != (0, 255):
                code = op.Clip(code, constant(low, np.uint8), constant(high, np.uint8))
            return op.DequantizeLinear(code, scale, zero)

        def quantize_by_step(x: Any, step: Any, zero_point: Any, *, high: int) -> Any:
            return fake_quantize(x, positive(step), zero_point, low=0, high=high)

        def quantize_by_offset(x: Any, step: Any, offset: Any, *, high: int) -> Any:
            scale = positive(step)
            zero = op.Round(op.Div(op.Neg(offset), scale))
            zero = op.Min(op.Max(zero, constant(0, np.float32)), constant(high, np.float32))
            return fake_quantize(x, scale, zero, low=0, high=high)

        def quantize_by_clip(x: Any, clip: Any, *, high: int) -> Any:
            scale = op.Div(positive(clip), constant(high, np.float32))
            return fake_quantize(x, scale, constant(0, np.int32), low=0, high=high)

        def positive(step: Any) -> Any:
            size = op.Abs(step)
            floor = op.Mul(op.ReduceMax(size, keepdims=0), constant(SMALLEST, np.float32))
            return op.Max(size, floor, constant(np.finfo(np.float32).tiny, np.float32))

        def quantize_dynamically(x: Any) -> Any:
            code, scale, zero = op.DynamicQuantizeLinear(x)
            return op.DequantizeLinear(code, scale, zero)

        def quantize_weight(weight: Any, *, limit: int, axis: int) -> Any:
            others = [place for place in range(len(weight.shape)) if place != axis]
            largest = op.ReduceMax(op.Abs(weight), constant(others, np.int64), keepdims=0)
            floor = op.Mul(op.ReduceMax(largest, keepdims=0), constant(SMALLEST, np.float32))
            largest = op.Max(largest, floor)
            dead = op.Equal(largest, constant(0, np.float32))
            scale = op.Where(dead, constant(1, np.float32), op.Div(largest, constant(limit, np.float32)))
            return weight_codes(weight, scale, limit=limit, axis=axis)

        def quantize_weight_by(weight: Any, step: Any, *, limit: int, axis: int) -> Any:
            return weight_codes(weight, positive(step), limit=limit, axis=axis)

        def weight_codes(weight: Any, scale: Any, *, limit: int, axis: int) -> Any:
            code = op.QuantizeLinear(weight, scale, axis=axis, output_dtype=TensorProto.INT8)
            code = op.Clip(code, constant(-limit, np.int8), constant(limit, np.int8))
            return op.DequantizeLinear(code, scale, axis=axis)

        def constant(value: Any, kind: Any) -> Any:
            return op.Constant(value=numpy_helper.from_array(np.array(value, dtype=kind)))

        return {
            torch.ops.lessen.fake_quantize.default: fake_quantize,
            torch.ops.lessen.quantize_weight.default: quantize_weight,
            torch.ops.lessen.quantize_weight_by.default: quantize_weight_by,
            torch.ops.lessen.quantize_by_step.default: quantize_by_step,
            torch.ops.lessen.quantize_by_offset.default: quantize_by_offset,
            torch.ops.lessen.quantize_by_clip.default: quantize_by_clip,
            torch.ops.lessen.quantize_dynamically.default: quantize_dynamically,
        }

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        """The roundings in PyTorch's own operators."""
        return decompositions()

    def store(self, constants: Constants) -> None:
        """Carry out the quantization of what is constant."""
        store_integers(constants)


TWIN = GridTwin()
