"""Codes of 2 bits in an OpenVINO model: stored in 2 bits, and widened once, when the model is loaded.

ONNX has no codes of 2 bits before version 25, so our files hold them packed, four in a byte, with shifts that take them
apart (`codes`). OpenVINO would shift them again in every run. It has constants of 2 bits of its own.
"""

from __future__ import annotations

from typing import Any


def store_two_bits(openvino: Any, model: Any) -> None:
    """Replace packed codes and their shifts by constants of 2 bits and a conversion, in place.

    Args:
        openvino: The package.
        model: An `openvino.Model`, as it was read from a file of ours.
    """
    from openvino import opset13

    for op in model.get_ordered_ops():
        if op.get_type_name() != "BitwiseAnd" or op.get_output_shape(0)[-1:] != [4]:
            continue
        codes = op.input_value(0).get_node().input_value(0).get_node()  # shifted by nothing, 2, 4 and 6 bits
        if codes.get_type_name() == "Constant" and codes.get_output_shape(0)[-1:] == [1]:
            tensor = openvino.Tensor(codes.data.reshape(-1), op.get_output_shape(0), openvino.Type.u2)
            wide = opset13.convert(openvino.op.Constant(tensor, shared_memory=False), "u8")
            for reader in op.output(0).get_target_inputs():
                reader.replace_source_output(wide.output(0))
