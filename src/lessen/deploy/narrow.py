"""Constants of few bits in an OpenVINO model: stored in their bits again.

OpenVINO's reader of ONNX widens halves to 32 bits and codes of 4 bits to 8, and leaves the shifts of codes of 2 bits to
every run. Here they become constants of few bits in front of a conversion, which OpenVINO carries out when it loads
the file. Nothing is rounded: what does not fit exactly stays as it is.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np

from lessen.deploy.low_bit import packed


def narrow(openvino: Any, model: Any) -> None:
    """Store in 16 and 4 bits what fits in them, and in 2 what was packed so, in an OpenVINO model, in place.

    Args:
        openvino: The package.
        model: An `openvino.Model`.
    """
    types = openvino.Type
    for op in model.get_ordered_ops():
        if op.get_type_name() == "Constant" and op.get_output_element_type(0) == types.i8:
            codes = op.data
            if codes.size and codes.min() >= -8 and codes.max() <= 7:
                _replace(openvino, op, packed((codes & 15).reshape(1, -1), 4), types.i4)
        elif op.get_type_name() == "Constant" and op.get_output_element_type(0) == types.f32:
            numbers = op.data
            with np.errstate(over="ignore"):
                for short, kind in ((np.dtype(np.float16), types.f16), (np.dtype(ml_dtypes.bfloat16), types.bf16)):
                    halves = numbers.astype(short)
                    if numbers.size > 1 and np.array_equal(halves.astype(np.float32), numbers):
                        _replace(openvino, op, np.ascontiguousarray(halves).view(np.uint8), kind)
                        break
        elif op.get_type_name() == "BitwiseAnd" and op.get_output_shape(0)[-1:] == [4]:
            codes = op.input_value(0).get_node().input_value(0).get_node()  # shifted by nothing, 2, 4 and 6 bits
            if codes.get_type_name() == "Constant" and codes.get_output_shape(0)[-1:] == [1]:
                _replace(openvino, op, codes.data, types.u2)


def _replace(openvino: Any, op: Any, content: np.ndarray[Any, Any], kind: Any) -> None:
    """Let a constant of few bits and a conversion take the place of what an operator gives."""
    from openvino import opset13

    tensor = openvino.Tensor(content.reshape(-1), openvino.Shape(list(op.get_output_shape(0))), kind)
    wide = opset13.convert(
        openvino.op.Constant(tensor, shared_memory=False), op.get_output_element_type(0).get_type_name()
    )
    for reader in op.output(0).get_target_inputs():
        reader.replace_source_output(wide.output(0))
