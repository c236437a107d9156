"""Constants of few bits in an OpenVINO model: stored in their bits again.

OpenVINO's reader of ONNX widens halves to 32 bits and codes to 8 or 32, and leaves the shifts of codes of 2 bits to
every run. Here they become constants of few bits in front of a conversion, which OpenVINO carries out when it loads
the file. Nothing is rounded: what does not fit exactly stays as it is.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lessen.deploy.low_bit import packed


def narrow(openvino: Any, model: Any) -> None:
    """Store what fits in 16, 8 or 4 bits so, and in 2 what was packed in them, in an OpenVINO model, in place.

    Args:
        openvino: The package.
        model: An `openvino.Model`.
    """
    types = openvino.Type
    for op in model.get_ordered_ops():
        kind = op.get_output_element_type(0)
        if op.get_type_name() == "Constant" and kind in {types.i8, types.i32}:
            _narrow_codes(openvino, op)
        elif op.get_type_name() == "Constant" and kind == types.f32:
            _narrow_floats(openvino, op)
        elif op.get_type_name() == "BitwiseAnd" and op.get_output_shape(0)[-1:] == [4]:
            codes = op.input_value(0).get_node().input_value(0).get_node()  # shifted by nothing, 2, 4 and 6 bits
            if codes.get_type_name() == "Constant" and codes.get_output_shape(0)[-1:] == [1]:
                _replace(openvino, op, codes.data, types.u2)


def _narrow_codes(openvino: Any, op: Any) -> None:
    """Store codes of weights in 4 or 8 bits where they fit."""
    codes, types = op.data, openvino.Type
    if codes.ndim < 2 or not codes.size:
        return  # axes and shapes, which must be constants
    least, most = int(codes.min()), int(codes.max())
    if least >= -8 and most <= 7:
        _replace(openvino, op, packed((codes & 15).reshape(1, -1), 4), types.i4)
    elif codes.dtype != np.int8 and least >= -128 and most <= 127:
        _replace(openvino, op, np.ascontiguousarray(codes.astype(np.int8)).view(np.uint8), types.i8)


def _narrow_floats(openvino: Any, op: Any) -> None:
    """Store numbers of 32 bits in 8 or 16 where none of them changes."""
    numbers, types = op.data, openvino.Type
    kinds = [(np.int8, types.i8), (np.float16, types.f16), (ml_dtypes.bfloat16, types.bf16)]
    for kind, name in kinds if numbers.size > 1 else []:
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = np.ascontiguousarray(numbers.astype(kind))
        if np.array_equal(narrow.astype(np.float32), numbers):
            _replace(openvino, op, narrow.view(np.uint8), name)
            return


def _replace(openvino: Any, op: Any, content: np.ndarray[Any, Any], kind: Any) -> None:
    """Let a constant of few bits and a conversion take the place of what an operator gives."""
    from openvino import opset13

    tensor = openvino.Tensor(content.reshape(-1), openvino.Shape(list(op.get_output_shape(0))), kind)
    wide = opset13.convert(
        openvino.op.Constant(tensor, shared_memory=False), op.get_output_element_type(0).get_type_name()
    )
    for reader in op.output(0).get_target_inputs():
        reader.replace_source_output(wide.output(0))
