"""Weights of a few bits in an ONNX file: stored in their bits, and given to the kernels that a runtime has for them.

The exporter writes `dequantize` as an operator of our own. Here the codes become 2, 4 or 8 bits wide, and a product
with such a weight becomes ONNX Runtime's MatMulNBits, which multiplies with 2, 4 or 8 bits in blocks of 16, 32, 64 …
without making the whole weight first. What it cannot do (convolutions, embeddings, other blocks) is written as codes
that are cast, shifted and multiplied: the file is small, and a runtime that carries out constants computes these once,
when it loads the file. ONNX Runtime would carry out a DequantizeLinear again and again.

Shapes: O rows, I inputs of a row, G groups of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from lessen.deploy.constants import DOMAIN, MICROSOFT, Array, Constants, Stored, attribute, own_operator, replace
from lessen.deploy.forms import half
from lessen.deploy.forms.base import Twin
from lessen.deploy.forms.two_bits import store_two_bits
from lessen.surgery.forms import codes as surgery_codes

_BLOCKS = (16, 128)
"""The smallest block of MatMulNBits, and the one that is written where a row has one step."""


class CodesTwin(Twin):
    """Weights of a few bits."""

    def translations(self) -> dict[Any, Callable[..., Any]]:
        """The weight of codes is an operator of our domain."""
        from onnx.defs import OpSchema

        op = own_operator("Dequantize", 3, group=OpSchema.AttrType.INT)

        def dequantize(codes: Any, steps: Any, zeros: Any, *, group: int, gain: float = 1.0) -> Any:
            del gain  # of training
            return op(codes, steps, zeros, group=group)

        return {torch.ops.lessen_codes.dequantize.default: dequantize}

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        """The same in PyTorch's own operators."""
        return {torch.ops.lessen_codes.dequantize.default: surgery_codes.plain_dequantize}

    def operators(self) -> dict[str, Stored]:
        """The weight of codes."""
        return {"Dequantize": (_value, _bits)}

    def store(self, constants: Constants) -> None:
        """Store codes in their bits and use the kernels for them; without codes nothing is done."""
        for node in [node for node in constants.graph if node.domain == DOMAIN and node.op_type == "Dequantize"]:
            codes, steps, zeros = (constants.value(value) for value in node.inputs)
            group = attribute(node, "group")
            if codes is None or steps is None or zeros is None:  # somebody computes them: the runtime does the rest
                made = constants.before(
                    node, "DequantizeLinear", list(node.inputs), name="dequantized", axis=1, block_size=group
                )
                replace(node, made)
                continue
            steps_value = node.inputs[1]
            assert steps_value is not None
            weight = _Weight(node, codes, steps, zeros, group, _bits(node), _halves(constants, steps_value, steps))
            _store(constants, weight)
            if any(each.domain == MICROSOFT for each in constants.graph):
                constants.graph.opset_imports.setdefault(MICROSOFT, 1)

    def for_openvino(self, openvino: Any, model: Any) -> None:
        """OpenVINO has constants of 2 bits."""
        store_two_bits(openvino, model)


def _value(node: ir.Node, given: list[Array]) -> Array:
    codes, steps, zeros = (torch.from_numpy(np.array(each)) for each in given)
    made = surgery_codes.plain_dequantize(codes, steps, zeros, group=attribute(node, "group"))
    return np.asarray(made.numpy())


def _bits(node: ir.Node) -> int:
    """The width of the codes in the file."""
    tensors = (value.const_value for value in (node.inputs[0], node.inputs[2]) if value is not None)
    largest = max((int(tensor.numpy().max(initial=0)) for tensor in tensors if tensor is not None), default=255)
    return surgery_codes.file_bits(largest.bit_length())


@dataclass
class _Weight:
    """A weight in codes: its operator, and its tensors."""

    node: ir.Node
    codes: Array
    steps: Array
    zeros: Array
    group: int
    bits: int
    halves: np.dtype[Any] | None

    @property
    def name(self) -> str:
        return self.node.outputs[0].name or "weight"


def _halves(constants: Constants, value: ir.Value, steps: Array) -> np.dtype[Any] | None:
    """The 16 bits that hold the steps without a loss, or None. Steps are chosen so; training moves them."""
    found = half.halves(constants, value)
    exact = found is None and bool((steps.astype(np.float16).astype(steps.dtype) == steps).all())
    return np.dtype(np.float16) if exact else found


def _store(constants: Constants, weight: _Weight) -> None:
    made, columns = weight.node.outputs[0], None
    readers = [use.node for use in made.uses()]
    if len(readers) == 1 and readers[0].op_type == "Mul":
        # Columns that were scaled: the inputs are multiplied instead.
        other = next((value for value in readers[0].inputs if value is not made), None)
        scale = constants.value(other)
        if scale is not None and scale.ndim == 1:
            columns, made = other, readers[0].outputs[0]
            readers = [use.node for use in made.uses()]
    block = _block(weight)
    found = {reader: _products(reader, made) if block else [] for reader in readers}
    products = list(dict.fromkeys(each for some in found.values() for each in some))
    if products:
        _multiply(constants, products, weight, columns, block)
    if weight.node.outputs[0].is_graph_output() or made.is_graph_output() or not all(found.values()):
        _spell_out(constants, weight)


def _block(weight: _Weight) -> int:
    """The size of the blocks to write for MatMulNBits; 0 where it has none."""
    smallest, usual = _BLOCKS
    if weight.steps.shape[1] == 1:
        return min(usual, max(smallest, 1 << (int(weight.codes.shape[1]) - 1).bit_length()))
    block: int = weight.group & -weight.group  # the largest power of two in it
    return block if block >= smallest else 0


def _products(reader: ir.Node, weight: ir.Value) -> list[ir.Node]:
    """The products that a reader of a weight (O, I) is or leads to; none where it is something else."""
    if reader.op_type == "Gemm" and reader.inputs[1] is weight:
        plain = all(attribute(reader, key, 1.0) == 1 for key in ("alpha", "beta"))
        turned = attribute(reader, "transB", 0) == 1 and not attribute(reader, "transA", 0)
        return [reader] if plain and turned else []
    if reader.op_type == "Transpose" and list(attribute(reader, "perm", ())) == [1, 0]:
        turned_weight = reader.outputs[0]
        after = [use.node for use in turned_weight.uses()]
        fits = all(each.op_type == "MatMul" and each.inputs[1] is turned_weight for each in after)
        return after if fits and not turned_weight.is_graph_output() else []
    return []


def _multiply(
    constants: Constants, products: list[ir.Node], weight: _Weight, columns: ir.Value | None, block: int
) -> None:
    """Put MatMulNBits in the place of all products with a weight."""
    rows, inputs = weight.codes.shape
    bits, blocks = weight.bits, -(-inputs // block)
    # Blocks are filled up with codes of zero; a group of several blocks gives each its step.
    spread = np.arange(blocks) * block // weight.group
    steps, zeros = weight.steps[:, spread], weight.zeros[:, spread]
    padded = np.repeat(zeros, block, axis=1)
    padded[:, :inputs] = weight.codes
    operands = [
        constants.add(f"{weight.name}_codes_{bits}", packed(padded.reshape(rows, blocks, block), bits)),
        _steps(constants, weight.node, weight, steps),
        constants.add(f"{weight.name}_zeros_{bits}", packed(zeros, bits)),
    ]
    about: dict[str, Any] = {"K": inputs, "N": rows, "bits": bits, "block_size": block, "domain": MICROSOFT}
    for product in products:
        name, given = product.outputs[0].name or weight.name, product.inputs[0]
        if columns is not None:
            given = constants.before(product, "Mul", [given, columns], name=f"{name}_scaled")
        result = constants.before(product, "MatMulNBits", [given, *operands], name=f"{name}_product", **about)
        bias = product.inputs[2] if product.op_type == "Gemm" and len(product.inputs) > 2 else None
        if bias is not None:
            result = constants.before(product, "Add", [result, bias], name=f"{name}_sum")
        replace(product, result)


def _steps(constants: Constants, node: ir.Node, weight: _Weight, steps: Array) -> ir.Value:
    """The steps as a tensor of 32 bits in front of a node, stored in 16 where nothing is lost."""
    steps = np.ascontiguousarray(steps)
    if weight.halves is None:
        return constants.add(f"{weight.name}_steps", steps)
    stored = constants.add(f"{weight.name}_steps", steps.astype(weight.halves))
    return constants.before(node, "Cast", [stored], name=f"{stored.name}_cast", to=ir.DataType.FLOAT.value)


def _multiples(weight: _Weight) -> tuple[Array, Any] | None:
    """Steps as multiples in 8 bits and what they are multiples of, or None. Tables are given such steps."""
    unit = np.abs(weight.steps).max() / np.float32(surgery_codes.MULTIPLES)
    times = np.rint(weight.steps / unit).clip(0, surgery_codes.MULTIPLES).astype(np.uint8)
    exact = weight.steps.size > 1 and bool((times.astype(np.float32) * unit == weight.steps).all())
    return (times, unit) if exact else None


def _spell_out(constants: Constants, weight: _Weight) -> None:
    """Write the weight as arithmetic on constants."""
    node, name, (rows, inputs), group = weight.node, weight.name, weight.codes.shape, weight.group
    groups = weight.steps.shape[1]
    padded = np.pad(weight.codes, [(0, 0), (0, groups * group - inputs)]).reshape(rows, groups, group)
    zeros = weight.zeros[:1, :1] if (weight.zeros == weight.zeros[0, 0]).all() else weight.zeros
    shifted = constants.before(
        node,
        "Sub",
        [
            _codes(constants, node, f"{name}_codes", padded, weight.bits),
            _codes(constants, node, f"{name}_zeros", zeros[:, :, None], max(weight.bits, 4)),
        ],
        name=f"{name}_shifted",
    )
    multiples = _multiples(weight)
    if multiples is None:
        steps = _steps(constants, node, weight, weight.steps[:, :, None])
        scaled = constants.before(node, "Mul", [shifted, steps], name=f"{name}_scaled")
    else:  # two products: OpenVINO looks for steps that are one tensor
        stored = constants.add(f"{name}_steps", multiples[0][:, :, None])
        steps = constants.before(node, "Cast", [stored], name=f"{stored.name}_cast", to=ir.DataType.FLOAT.value)
        times = constants.before(node, "Mul", [shifted, steps], name=f"{name}_times")
        unit = constants.add(f"{name}_unit", multiples[1])
        scaled = constants.before(node, "Mul", [times, unit], name=f"{name}_scaled")
    shape = constants.add(f"{name}_shape", np.array([rows, groups * group]))
    whole = constants.before(node, "Reshape", [scaled, shape], name=f"{name}_whole")
    if groups * group != inputs:
        ends = [
            constants.add(f"{name}_{key}", np.array([at])) for key, at in (("from", 0), ("to", inputs), ("axis", 1))
        ]
        whole = constants.before(node, "Slice", [whole, *ends], name=f"{name}_cut")
    replace(node, whole)


def _codes(constants: Constants, node: ir.Node, name: str, codes: Array, bits: int) -> ir.Value:
    """Codes as a tensor of 32 bits in front of a node."""
    import ml_dtypes

    if bits == 2:
        return _unpacked(constants, node, name, codes)
    stored = constants.add(name, codes.astype(ml_dtypes.uint4 if bits == 4 else np.uint8))
    return constants.before(node, "Cast", [stored], name=f"{stored.name}_cast", to=ir.DataType.FLOAT.value)


def _unpacked(constants: Constants, node: ir.Node, name: str, codes: Array) -> ir.Value:
    """Codes of 2 bits, four in a byte: ONNX has no such type before version 25, and OpenVINO reads none."""
    flat = packed(codes.reshape(1, -1), 2).reshape(-1, 1)
    shifts = constants.add("shifts", np.array([[0, 2, 4, 6]], np.uint8))
    parts = constants.before(
        node, "BitShift", [constants.add(name, flat), shifts], name=f"{name}_parts", direction="RIGHT"
    )
    low = constants.before(node, "BitwiseAnd", [parts, constants.add("three", np.uint8(3))], name=f"{name}_low")
    cast = constants.before(node, "Cast", [low], name=f"{name}_cast", to=ir.DataType.FLOAT.value)
    line = constants.before(node, "Reshape", [cast, constants.add(f"{name}_line", np.array([-1]))], name=f"{name}_all")
    if codes.size % 4:
        ends = [constants.add(f"{name}_{key}", np.array([at])) for key, at in (("from", 0), ("to", codes.size))]
        line = constants.before(node, "Slice", [line, *ends], name=f"{name}_cut")
    return constants.before(
        node, "Reshape", [line, constants.add(f"{name}_shape", np.array(codes.shape))], name=f"{name}_shaped"
    )


def packed(values: Array, bits: int) -> Array:
    """Codes side by side in bytes, the first in the lowest bits; the last byte of a row is filled up with zeros."""
    each = 8 // bits
    missing = -values.shape[-1] % each
    padded = np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, missing)])
    parts = padded.reshape(*padded.shape[:-1], -1, each).astype(np.uint32)
    made: Array = (parts << (bits * np.arange(each, dtype=np.uint32))).sum(-1).astype(np.uint8)
    return made


TWIN = CodesTwin()
