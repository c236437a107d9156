"""Weights of a few bits in an ONNX file: stored in their bits, and given to the kernels that a runtime has for them.

The exporter writes `dequantize` as a DequantizeLinear of blocks. Here the codes become 2, 4 or 8 bits wide, and a
product with such a weight becomes ONNX Runtime's MatMulNBits, which multiplies with 2, 4 or 8 bits in blocks of 16, 32,
64 … without making the whole weight first. What it cannot do (convolutions, other blocks) is written as codes of 4 or 8
bits that are cast, shifted and multiplied: the file is small, and a runtime that carries out constants computes these
once, when it loads the file. ONNX Runtime would carry out a DequantizeLinear again and again.

Shapes: O rows, I inputs of a row, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lessen.surgery import codes as surgery_codes

Array = np.ndarray[Any, Any]
MICROSOFT = "com.microsoft"
_BLOCKS = (16, 128)
"""The smallest block of MatMulNBits, and the one that is written where a row has one step."""


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How the exporter writes our operator."""
    from onnxscript import opset21

    op: Any = opset21

    def dequantize(codes: Any, steps: Any, zeros: Any, *, group: int, gain: float = 1.0) -> Any:
        del gain  # of training
        return op.DequantizeLinear(codes, steps, zeros, axis=1, block_size=group)

    return {torch.ops.lessen_codes.dequantize.default: dequantize}


def decompositions() -> dict[Any, Any]:
    """Our operator in PyTorch's own, so that a program runs where lessen is not installed."""
    return {torch.ops.lessen_codes.dequantize.default: surgery_codes.plain_dequantize}


@dataclass
class _Weight:
    """A weight in codes: its DequantizeLinear, and its tensors."""

    node: Any
    codes: Array
    steps: Array
    zeros: Array
    group: int

    def bits(self) -> int:
        """The width of the codes in the file."""
        largest = max(int(self.codes.max(initial=0)), int(self.zeros.max(initial=0)))
        return 2 if largest < 4 else 4 if largest < 16 else 8


def store_low_bits(model: Any) -> None:
    """Store codes in their bits and use the kernels for them, in place; without codes nothing is done.

    Args:
        model: As the exporter wrote it.
    """
    graph = model.graph
    weights = list(_weights(graph))
    if not weights:
        return
    for weight in weights:
        _store(graph, weight)
    _drop_unused(graph)
    if any(node.domain == MICROSOFT for node in graph.node) and all(
        each.domain != MICROSOFT for each in model.opset_import
    ):
        import onnx

        model.opset_import.append(onnx.helper.make_opsetid(MICROSOFT, 1))


def _weights(graph: Any) -> Iterator[_Weight]:
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        group = next((each.i for each in node.attribute if each.name == "block_size"), 0)
        if node.op_type == "DequantizeLinear" and group and all(name in tensors for name in node.input):
            codes, steps, zeros = (numpy_helper.to_array(tensors[name]) for name in node.input)
            yield _Weight(node, codes, steps, zeros, group)


def _store(graph: Any, weight: _Weight) -> None:
    readers = _readers(graph, weight.node.output[0])
    columns, made = None, weight.node.output[0]
    if len(readers) == 1 and readers[0].op_type == "Mul":
        # Columns that were scaled: the inputs are multiplied instead.
        scale = _constant(graph, next(name for name in readers[0].input if name != made))
        if scale is not None and scale.ndim == 1:
            columns, made = scale, readers[0].output[0]
            readers = _readers(graph, made)
    block = _block(weight)
    left = False
    for reader in readers:
        products = _products(graph, reader, made) if block else []
        left |= not products
        for product in products:
            _multiply(graph, product, weight, columns, block)
    if left:
        _spell_out(graph, weight)


def _block(weight: _Weight) -> int:
    """The size of the blocks to write for MatMulNBits; 0 where it has none."""
    smallest, usual = _BLOCKS
    if weight.steps.shape[1] == 1:
        return min(usual, max(smallest, 1 << (int(weight.codes.shape[1]) - 1).bit_length()))
    block: int = weight.group & -weight.group  # the largest power of two in it
    return block if block >= smallest else 0


def _products(graph: Any, reader: Any, name: str) -> list[Any]:
    """The products that a reader of a weight (O, I) is or leads to; none where it is something else."""
    if reader.op_type == "Gemm" and reader.input[1] == name:
        about = {each.name: each for each in reader.attribute}
        plain = all(abs(about[key].f - 1) == 0 for key in ("alpha", "beta") if key in about)
        turned = "transB" in about and about["transB"].i == 1 and not ("transA" in about and about["transA"].i)
        return [reader] if plain and turned else []
    if reader.op_type == "Transpose" and len(reader.output[0]) and _is_matrix_transpose(reader):
        after = _readers(graph, reader.output[0])
        fits = all(each.op_type == "MatMul" and each.input[1] == reader.output[0] for each in after)
        return after if fits else []
    return []


def _is_matrix_transpose(node: Any) -> bool:
    return any(each.name == "perm" and list(each.ints) == [1, 0] for each in node.attribute)


def _multiply(graph: Any, product: Any, weight: _Weight, columns: Array | None, block: int) -> None:
    """Put MatMulNBits in the place of a product."""
    import onnx

    rows, inputs = weight.codes.shape
    bits, blocks = weight.bits(), -(-inputs // block)
    name = weight.node.output[0]
    # Blocks are filled up with codes of zero; a group of several blocks gives each its step.
    spread = np.arange(blocks) * block // weight.group
    steps, zeros = weight.steps[:, spread], weight.zeros[:, spread]
    padded = np.repeat(zeros, block, axis=1)
    padded[:, :inputs] = weight.codes
    own = {
        f"{name}_codes_{bits}": _packed(padded.reshape(rows, blocks, block), bits),
        f"{name}_steps": np.ascontiguousarray(steps),
        f"{name}_zeros_{bits}": _packed(zeros, bits),
    }
    given, nodes = product.input[0], []
    if columns is not None:
        own[f"{name}_columns"] = columns
        given = f"{product.output[0]}_scaled"
        nodes.append(onnx.helper.make_node("Mul", [product.input[0], f"{name}_columns"], [given]))
    bias = product.input[2] if product.op_type == "Gemm" and len(product.input) > 2 else ""
    result = f"{product.output[0]}_product" if bias else product.output[0]
    about: dict[str, Any] = {"K": inputs, "N": rows, "bits": bits, "block_size": block}
    names = [given, f"{name}_codes_{bits}", f"{name}_steps", f"{name}_zeros_{bits}"]
    about |= {"domain": MICROSOFT, "name": result}
    nodes.append(onnx.helper.make_node("MatMulNBits", names, [result], **about))
    if bias:
        nodes.append(onnx.helper.make_node("Add", [result, bias], list(product.output)))
    _replace(graph, product, nodes, own)


def _spell_out(graph: Any, weight: _Weight) -> None:
    """Write the weight as arithmetic on constants."""
    from onnx import helper

    name, (rows, inputs), group = weight.node.output[0], weight.codes.shape, weight.group
    groups = weight.steps.shape[1]
    kind = np.uint8 if weight.bits() == 8 else _uint4()
    padded = np.pad(weight.codes, [(0, 0), (0, groups * group - inputs)]).reshape(rows, groups, group)
    tensors = {
        f"{name}_codes": padded.astype(kind),
        f"{name}_zeros": weight.zeros[:, :, None].astype(kind),
        f"{name}_steps": weight.steps[:, :, None],
        f"{name}_shape": np.array([rows, groups * group]),
    }
    floating = helper.np_dtype_to_tensor_dtype(weight.steps.dtype)
    nodes = [
        helper.make_node("Cast", [f"{name}_codes"], [f"{name}_codes_cast"], to=floating),
        helper.make_node("Cast", [f"{name}_zeros"], [f"{name}_zeros_cast"], to=floating),
        helper.make_node("Sub", [f"{name}_codes_cast", f"{name}_zeros_cast"], [f"{name}_shifted"]),
        helper.make_node("Mul", [f"{name}_shifted", f"{name}_steps"], [f"{name}_scaled"]),
    ]
    whole = f"{name}_whole" if groups * group != inputs else name
    nodes.append(helper.make_node("Reshape", [f"{name}_scaled", f"{name}_shape"], [whole]))
    if whole != name:
        tensors |= {f"{name}_{key}": np.array([value]) for key, value in (("from", 0), ("to", inputs), ("axis", 1))}
        nodes.append(helper.make_node("Slice", [whole, *(f"{name}_{key}" for key in ("from", "to", "axis"))], [name]))
    _replace(graph, weight.node, nodes, tensors)


def _packed(values: Array, bits: int) -> Array:
    """Codes side by side in bytes, the first in the lowest bits; the last byte of a row is filled up with zeros."""
    each = 8 // bits
    short = -values.shape[-1] % each
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, short)])
    parts = padded.reshape(*padded.shape[:-1], -1, each).astype(np.uint32)
    made: Array = (parts << (bits * np.arange(each, dtype=np.uint32))).sum(-1).astype(np.uint8)
    return made


def _uint4() -> Any:
    import ml_dtypes

    return ml_dtypes.uint4


def _readers(graph: Any, name: str) -> list[Any]:
    return [node for node in graph.node if name in node.input]


def _constant(graph: Any, name: str) -> Array | None:
    from onnx import numpy_helper

    found = next((tensor for tensor in graph.initializer if tensor.name == name), None)
    return None if found is None else numpy_helper.to_array(found)


def _replace(graph: Any, node: Any, new: list[Any], tensors: dict[str, Array]) -> None:
    """Put nodes in the place of one, and add the constants that they read."""
    from onnx import numpy_helper

    known = {tensor.name for tensor in graph.initializer}
    for name, value in tensors.items():
        if name not in known:
            graph.initializer.append(numpy_helper.from_array(value, name))
    place = next(i for i, each in enumerate(graph.node) if each.output == node.output)
    after = [type(each).FromString(each.SerializeToString()) for each in graph.node[place + 1 :]]
    del graph.node[place:]
    graph.node.extend([*new, *after])


def _drop_unused(graph: Any) -> None:
    kept = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if kept & set(node.output):
            kept.update(node.input)
            nodes.append(type(node).FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(nodes[::-1])
    tensors = [tensor for tensor in graph.initializer if tensor.name in kept]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
