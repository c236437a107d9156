"""What is constant in the pairs of an ONNX file becomes integers.

On a weight, a QuantizeLinear -> DequantizeLinear pair would keep 32 bits a number in the file. Here the quantization is
carried out once, and the file holds the codes: 8 bits of them, or 4 where they fit (`_narrow`). A bias between two
quantized operands is stored as int32 with the scale s_x * s_w, which is what integer kernels add.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from lessen.deploy.constants import Array, Constants, attribute, found_grid, replace, stored_weight
from lessen.deploy.recurrent import KERNEL, multiply_recurrent

_PRODUCTS = frozenset({"Conv", "Gemm", "ConvTranspose"})
_NARROW = (-8, 7)
"""Codes that 4 bits hold."""


def store_integers(constants: Constants) -> None:
    """Carry out the quantization of what is constant in an ONNX model, in place; without pairs nothing changes."""
    pairs = [node for node in constants.graph if node.op_type == "DequantizeLinear"]
    if not pairs:
        return
    for node in [node for node in constants.graph if node.op_type in {"QuantizeLinear", "DequantizeLinear"}]:
        for place, value in enumerate(node.inputs):
            constants.carry_out(value, step=place > 0)
    for step in (
        _turn_weights,
        _multiply_found,
        multiply_recurrent,
        _store_biases,
        _spell_zero_points,
        _narrow,
        _name_global_pools,
    ):
        step(constants)


def _turn_weights(constants: Constants) -> None:
    """DequantizeLinear -> Transpose of a weight becomes DequantizeLinear of the turned codes: kernels look for that."""
    for node in [node for node in constants.graph if node.op_type == "Transpose"]:
        maker = stored_weight(constants, node.inputs[0])
        if maker is None:
            continue
        order = list(attribute(node, "perm"))
        codes, steps = maker.inputs[0], list(maker.inputs[1:])
        assert codes is not None
        turned = constants.turned(node, codes, order)
        about = {"axis": order.index(attribute(maker, "axis", 1))}
        replace(
            node, constants.before(node, "DequantizeLinear", [turned, *steps], name=f"{codes.name}_weight", **about)
        )


def _multiply_found(constants: Constants) -> None:
    """A product of a weight and what found its grid at run time becomes MatMulInteger; runtimes do not see that.

    (code - zero) W is summed in int32, and multiplied by the step that was found and those of the weight's columns.
    """
    for node in [node for node in constants.graph if node.op_type in {"MatMul", "Gemm"}]:
        x, weight = found_grid(node.inputs[0]), stored_weight(constants, node.inputs[1])
        if x is None or weight is None:
            continue
        name, codes = node.outputs[0].name or "product", weight.inputs[0]
        assert codes is not None
        if attribute(node, "transB", 0):
            codes = constants.turned(node, codes, [1, 0])
        total = constants.before(node, "MatMulInteger", [x.inputs[0], codes, x.inputs[2]], name=f"{name}_total")
        floating = constants.before(node, "Cast", [total], name=f"{name}_float", to=ir.DataType.FLOAT.value)
        steps = constants.before(node, "Mul", [x.inputs[1], weight.inputs[1]], name=f"{name}_steps")
        result = constants.before(node, "Mul", [floating, steps], name=f"{name}_product")
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            result = constants.before(node, "Add", [result, node.inputs[2]], name=f"{name}_sum")
        replace(node, result)


def _store_biases(constants: Constants) -> None:
    """A bias between quantized operands becomes int32 with the product of their scales, also one of 16 bits."""
    for node in [node for node in constants.graph if node.op_type in _PRODUCTS and len(node.inputs) > 2]:
        x, weight = (None if value is None else value.producer() for value in node.inputs[:2])
        if any(each is None or each.op_type != "DequantizeLinear" for each in (x, weight)):
            continue
        given, bias = node.inputs[2], constants.value(node.inputs[2])
        if x is None or weight is None or given is None or bias is None:
            continue
        s_x, s_w = constants.value(x.inputs[1]), constants.value(weight.inputs[1])
        if s_x is None or s_w is None:
            continue
        # A transposed convolution has as many steps as a group has channels, and each group counts in them.
        scale: Array = np.resize(np.float32(s_x * s_w).reshape(-1), bias.shape)
        code = np.rint(bias.astype(np.float64) / scale)
        if np.abs(code).max(initial=0) > 2**31 - 1:
            continue  # Does not fit: the runtime adds it in floating point.
        codes, steps = constants.add(f"{given.name}_int32", code.astype(np.int32)), constants.add("scale", scale)
        node.replace_input_with(
            2, constants.before(node, "DequantizeLinear", [codes, steps], name=f"{codes.name}_bias", axis=0)
        )


def _narrow(constants: Constants) -> None:
    """Codes that fit into 4 bits are stored so, and cast to int8: runtimes do that when they load the file."""
    import ml_dtypes

    places = {"DequantizeLinear": (0,), "MatMulInteger": (1,), KERNEL: (1, 2)}
    wanted = [(node, place) for node in constants.graph for place in places.get(node.op_type, ())]
    for node, place in wanted:
        codes = node.inputs[place]
        if codes is None or not codes.is_initializer():
            continue
        value = constants.value(codes)
        if (
            value is None
            or value.dtype != np.int8
            or value.min(initial=0) < _NARROW[0]
            or value.max(initial=0) > _NARROW[1]
        ):
            continue
        stored = constants.add(f"{codes.name}_4", value.astype(ml_dtypes.int4))
        cast = constants.before(node, "Cast", [stored], name=f"{codes.name}_8", to=ir.DataType.INT8.value)
        node.replace_input_with(place, cast)


def _spell_zero_points(constants: Constants) -> None:
    """Give constants the zero point that they have by default: runtimes read it."""
    for node in [node for node in constants.graph if node.op_type == "DequantizeLinear" and len(node.inputs) == 2]:
        codes, steps = (constants.value(value) for value in node.inputs)
        if codes is not None and steps is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, constants.add("zeros", np.zeros(steps.shape, codes.dtype)))


def _name_global_pools(constants: Constants) -> None:
    """A ReduceMean over positions has no integer kernel: name it GlobalAveragePool."""
    for node in [node for node in constants.graph if node.op_type == "ReduceMean" and len(node.inputs) > 1]:
        axes, given = constants.value(node.inputs[1]), node.outputs[0].shape
        positions = axes is not None and sorted(axis % 4 for axis in axes.tolist()) == [2, 3]
        if attribute(node, "keepdims", 1) == 1 and positions and given is not None and len(given) == 4:
            name = f"{node.outputs[0].name}_pooled"
            replace(node, constants.before(node, "GlobalAveragePool", [node.inputs[0]], name=name))
