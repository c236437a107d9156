"""Quantize / dequantize pairs in an ONNX file: how they are written, and how what is constant becomes whole numbers.

The exporter writes a rounding as QuantizeLinear -> (Clip) -> DequantizeLinear, whose step and code of zero become
constants also where they learned. On a weight that would keep 32 bits
a number in the file; here the quantization is carried out once, and the file holds the int8 codes. A bias between two
quantized operands is stored as int32 with the scale s_x * s_w, which is what integer kernels add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from lessen.operations.quantize.fake import SMALLEST

Array = np.ndarray[Any, Any]


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes our operators."""
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


def store_integers(model: Any) -> None:
    """Carry out the quantization of what is constant in an ONNX model, in place; without pairs nothing changes."""
    graph = model.graph
    if not any(node.op_type == "DequantizeLinear" for node in graph.node):
        return
    _carry_out_constants(model)
    _turn_weights(graph)
    _multiply_found(graph)
    _store_biases(graph)
    _spell_zero_points(graph)
    _name_global_pools(graph)
    _drop_unused(graph)


def _carry_out_constants(model: Any) -> None:
    """Replace every node that depends on constants alone by its result, up to the DequantizeLinear nodes."""
    import onnx
    import onnxruntime

    graph = model.graph
    known = {tensor.name for tensor in graph.initializer}
    constant: list[Any] = []
    rest: list[Any] = []
    for node in graph.node:
        fixed = node.op_type != "DequantizeLinear" and all(not name or name in known for name in node.input)
        (constant if fixed and not node.domain else rest).append(node)
        if fixed and not node.domain:
            known.update(node.output)
    made = {name for node in constant for name in node.output}
    wanted = sorted({name for node in rest for name in node.input} & made)
    if not wanted:
        return
    part = onnx.helper.make_graph(
        constant, "constants", [], [onnx.ValueInfoProto(name=name) for name in wanted], list(graph.initializer)
    )
    small = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for name, value in zip(wanted, session.run(wanted, {}), strict=True):
        graph.initializer.append(onnx.numpy_helper.from_array(value, name))
    del graph.node[:]
    graph.node.extend(rest)


def _turn_weights(graph: Any) -> None:
    """DequantizeLinear -> Transpose of a weight becomes DequantizeLinear of the turned codes: kernels look for that."""
    import onnx

    values = _values(graph)
    makers = {name: node for node in graph.node for name in node.output}
    for node in [node for node in graph.node if node.op_type == "Transpose"]:
        maker = makers.get(node.input[0])
        if maker is None or maker.op_type != "DequantizeLinear" or maker.input[0] not in values:
            continue
        order = next(list(attribute.ints) for attribute in node.attribute if attribute.name == "perm")
        codes, name = values[maker.input[0]].transpose(order), f"{maker.input[0]}_turned_{node.output[0]}"
        graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(codes), name))
        axis = next((attribute.i for attribute in maker.attribute if attribute.name == "axis"), 1)
        fresh = onnx.helper.make_node(
            "DequantizeLinear", [name, *maker.input[1:]], list(node.output), axis=order.index(axis), name=node.name
        )
        node.CopyFrom(fresh)


def _multiply_found(graph: Any) -> None:
    """A product of a weight and what found its grid at run time becomes MatMulInteger; runtimes do not see that.

    (code - zero) W is summed in int32, and multiplied by the step that was found and those of the weight's columns.
    """
    import onnx

    values = _values(graph)
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[Any] = []
    for node in graph.node:
        x, weight = (_maker(makers, name) for name in (*node.input, "", "")[:2])
        if node.op_type not in {"MatMul", "Gemm"} or not _found(x, makers) or not _stored(weight, values):
            nodes.append(node)
            continue
        turned = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        codes, name = values[weight.input[0]], f"{node.name or node.output[0]}_integer"
        codes = np.ascontiguousarray(codes.T if turned else codes)
        graph.initializer.append(onnx.numpy_helper.from_array(codes, f"{name}_weight"))
        bias = list(node.input[2:3])
        last = f"{name}_product" if bias else node.output[0]
        steps: list[tuple[str, list[str], str, dict[str, Any]]] = [
            ("MatMulInteger", [x.input[0], f"{name}_weight", x.input[2]], f"{name}_sum", {}),
            ("Cast", [f"{name}_sum"], f"{name}_float", {"to": onnx.TensorProto.FLOAT}),
            ("Mul", [x.input[1], weight.input[1]], f"{name}_steps", {}),
            ("Mul", [f"{name}_float", f"{name}_steps"], last, {}),
        ]
        steps += [("Add", [last, *bias], node.output[0], {})] if bias else []
        nodes += [onnx.helper.make_node(op, given, [gives], name=gives, **how) for op, given, gives, how in steps]
    _replace(graph, nodes)


def _maker(makers: dict[str, Any], name: str) -> Any:
    return makers.get(name)


def _found(node: Any, makers: dict[str, Any]) -> bool:
    """Whether a node gives values on a grid that was found at run time."""
    maker = makers.get(node.input[0]) if node is not None and node.op_type == "DequantizeLinear" else None
    return maker is not None and maker.op_type == "DynamicQuantizeLinear"


def _stored(node: Any, values: dict[str, Array]) -> bool:
    """Whether a node gives a weight whose codes are constants."""
    return node is not None and node.op_type == "DequantizeLinear" and node.input[0] in values


def _spell_zero_points(graph: Any) -> None:
    """Give constants the zero point that they have by default; runtimes read it. Equal ones are stored once."""
    import onnx

    values = _values(graph)
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and len(node.input) == 2 and node.input[0] in values:
            zeros = np.zeros_like(values[node.input[1]], dtype=values[node.input[0]].dtype)
            name = f"zeros_{zeros.dtype}_{'x'.join(map(str, zeros.shape))}"
            if name not in values:
                graph.initializer.append(onnx.numpy_helper.from_array(zeros, name))
                values[name] = zeros
            node.input.append(name)


def _store_biases(graph: Any) -> None:
    """A float bias between quantized operands becomes int32 with the product of their scales."""
    import onnx

    values = _values(graph)
    scales = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    fresh: dict[int, Any] = {}
    for place, node in enumerate(graph.node):
        if node.op_type not in {"Conv", "Gemm", "ConvTranspose"} or len(node.input) < 3 or node.input[2] not in values:
            continue
        if node.input[0] not in scales or node.input[1] not in scales:
            continue
        scale = np.float32(values[scales[node.input[0]]] * values[scales[node.input[1]]]).reshape(-1)
        bias = values[node.input[2]]
        scale = np.broadcast_to(scale, bias.shape).copy()
        code = np.rint(bias.astype(np.float64) / scale)
        if np.abs(code).max(initial=0) > 2**31 - 1:
            continue  # Does not fit: the runtime adds it in floating point.
        name = f"{node.input[2]}_int32_{place}"
        graph.initializer.append(onnx.numpy_helper.from_array(code.astype(np.int32), name))
        graph.initializer.append(onnx.numpy_helper.from_array(scale, f"{name}_scale"))
        fresh[place] = onnx.helper.make_node(
            "DequantizeLinear", [name, f"{name}_scale"], [f"{name}_value"], axis=0, name=name
        )
        node.input[2] = f"{name}_value"
    _replace(graph, [part for place, node in enumerate(graph.node) for part in (fresh.get(place), node) if part])


def _name_global_pools(graph: Any) -> None:
    """A ReduceMean over positions has no integer kernel: name it GlobalAveragePool."""
    import onnx

    values = _values(graph)
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in (*graph.value_info, *graph.input)}
    for node in graph.node:
        keeps = all(attribute.i == 1 for attribute in node.attribute if attribute.name == "keepdims")
        if node.op_type != "ReduceMean" or not keeps or len(node.input) < 2 or node.input[1] not in values:
            continue
        if ranks.get(node.output[0]) == 4 and sorted(axis % 4 for axis in values[node.input[1]].tolist()) == [2, 3]:
            fresh = onnx.helper.make_node("GlobalAveragePool", [node.input[0]], list(node.output), name=node.name)
            node.CopyFrom(fresh)


def _drop_unused(graph: Any) -> None:
    """Remove nodes and constants that nothing reads any more."""
    kept = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if kept & set(node.output):
            kept.update(node.input)
            nodes.append(node)
    _replace(graph, nodes[::-1])
    constants = [tensor for tensor in graph.initializer if tensor.name in kept]
    del graph.initializer[:]
    graph.initializer.extend(constants)


def _replace(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _values(graph: Any) -> dict[str, Array]:
    from onnx import numpy_helper

    return {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
