"""What is stored in a file that runs: its constants, and in how many bits a number of each is stored.

The file is read by the library of its format, and by nothing that wrote it: `onnx`, `openvino` or `torch.export`.
What the file computes of its constants alone is carried out here, so that a weight is known by its values, however it
is spelled out: `Cast(half)`, `(codes - zeros) * steps`, codes in blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

Array = np.ndarray[Any, Any]
_INDEX = 64
"""Bits of a number in a tensor of shapes and axes, which is no part of a weight."""
_ENOUGH = 4
"""Numbers in a row that no factor makes equal to another row by chance."""


@dataclass(frozen=True)
class Source:
    """A tensor in a file.

    Args:
        count: How many numbers it has.
        bits: Of one of them.
        bytes: Whether they are bytes, which may hold several codes each.
    """

    count: int
    bits: int
    bytes: bool = False

    def width(self, count: int) -> float:
        """The bits of each of `count` numbers that are made from it; 0 where it has too few to hold them, as steps."""
        if self.count >= count:
            return self.bits
        return self.bits * self.count / count if self.bytes and 4 * self.count >= count else 0


@dataclass(frozen=True)
class Constant:
    """A tensor that is in a file, or is computed from such tensors alone.

    Args:
        values: Its values.
        sources: The tensors in the file.
        stored: Whether it is one of them itself.
    """

    values: Array
    sources: frozenset[Source]
    stored: bool = False

    def width(self) -> float:
        """The bits of each of its numbers in the file."""
        widths = [source.width(self.values.size) for source in self.sources if source.bits < _INDEX]
        return max(widths, default=0)


def in_onnx(path: Path) -> list[list[Constant]]:
    """The constants of an ONNX file; for each of its outputs those that lead to it."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(path)
    graph, known = model.graph, dict[str, Constant]()
    for tensor in graph.initializer:
        values = onnx.numpy_helper.to_array(tensor)
        known[tensor.name] = Constant(values, frozenset({_source(values, len(tensor.raw_data))}), stored=True)
    alone, made = [], list[str]()
    leads = {name: {name} for name in known}
    for node in graph.node:
        given = [name for name in node.input if name]
        for name in node.output:
            leads[name] = {name}.union(*(leads.get(each, set()) for each in given))
        if not node.domain and given and all(name in known or name in made for name in given):
            alone.append(node)
            made += node.output
    if made:
        part = onnx.helper.make_graph(
            alone, "constants", [], [onnx.ValueInfoProto(name=name) for name in made], list(graph.initializer)
        )
        found = ReferenceEvaluator(onnx.helper.make_model(part, opset_imports=model.opset_import)).run(None, {})
        sources = {
            name: frozenset[Source]().union(*(known[each].sources for each in leads[name] if each in known))
            for name in made
        }
        known |= {name: Constant(np.asarray(value), sources[name]) for name, value in zip(made, found, strict=True)}
    for node in graph.node:
        if node.op_type == "MatMulNBits":
            whole = _of_blocks(node, [known[name] for name in node.input[1:4]])
            known[f"{node.output[0]} weight"] = whole
            for lead in leads.values():
                if node.output[0] in lead:
                    lead.add(f"{node.output[0]} weight")
    return [[known[name] for name in leads[value.name] if name in known] for value in graph.output]


def _source(values: Array, stored: int) -> Source:
    """What a tensor of an ONNX file takes; types of fewer than 8 bits share bytes."""
    count = values.size
    whole = 8 * values.dtype.itemsize
    bits = next((bits for bits in (2, 4) if stored == math.ceil(bits * count / 8)), whole)
    return Source(count, bits, bytes=values.dtype == np.uint8 and bits == whole)


def _of_blocks(node: Any, operands: Sequence[Constant]) -> Constant:
    """The weight of ONNX Runtime's MatMulNBits, shape (N, K): codes in blocks, the first in the lowest bits."""
    about = {each.name: each.i for each in node.attribute}
    rows, columns, bits, block = (about[key] for key in ("N", "K", "bits", "block_size"))
    blocks = -(-columns // block)
    codes, steps, zeros = (operand.values for operand in operands)
    assert codes.nbytes == rows * blocks * block * bits // 8
    wide = _unpacked(codes.reshape(rows, -1), bits).reshape(rows, blocks, block).astype(np.float32)
    shifted = wide - _unpacked(zeros.reshape(rows, -1), bits)[:, :blocks, None]
    values = (shifted * steps.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :columns]
    return Constant(values, frozenset({Source(rows * blocks * block, bits)}))


def _unpacked(packed: Array, bits: int) -> Array:
    parts = packed[..., None] >> np.arange(0, 8, bits, dtype=np.uint8)
    codes: Array = (parts & (2**bits - 1)).reshape(*packed.shape[:-1], -1)
    return codes


def in_openvino(path: Path) -> list[list[Constant]]:
    """The constants of an OpenVINO model; for each of its outputs those that lead to it."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    sources, leads, wanted = dict[str, frozenset[Source]](), dict[str, set[str]](), list[Any]()
    for op in model.get_ordered_ops():
        name, kind = op.get_friendly_name(), op.get_type_name()
        given = [value.get_source_output().get_node().get_friendly_name() for value in op.inputs()]
        leads[name] = {name}.union(*(leads[each] for each in given))
        if kind == "Constant":
            bits = op.get_output_element_type(0).bitwidth
            sources[name] = frozenset({Source(math.prod(op.get_output_shape(0)), bits)})
        elif kind != "Result" and given and all(each in sources for each in given):
            sources[name] = frozenset[Source]().union(*(sources[each] for each in given))
        else:
            continue
        if op.get_output_element_type(0).bitwidth >= 8 and op.get_output_size() == 1:
            wanted.append(op)
    ends = [openvino.opset13.result(openvino.opset13.convert(op, "f32")) for op in wanted]
    plain = {"INFERENCE_PRECISION_HINT": "f32"}
    found = core.compile_model(openvino.Model(ends, []), "CPU", plain)({})
    known = {
        op.get_friendly_name(): Constant(
            np.array(found[place]), sources[op.get_friendly_name()], stored=op.get_type_name() == "Constant"
        )
        for place, op in enumerate(wanted)
    }
    return [
        [known[name] for name in leads[result.get_friendly_name()] if name in known] for result in model.get_results()
    ]


def in_pt2(path: Path) -> list[list[Constant]]:
    """The constants of a `torch.export` program; for each of its outputs those that lead to it."""
    program = torch.export.load(path)
    signature, known, leads = program.graph_signature, dict[Any, Constant](), dict[Any, set[Any]]()
    tensors = {**program.state_dict, **program.constants}
    names = {
        **signature.inputs_to_parameters,
        **signature.inputs_to_buffers,
        **signature.inputs_to_lifted_tensor_constants,
    }
    values = dict[Any, torch.Tensor]()
    for node in program.graph.nodes:
        leads[node] = {node}.union(*(leads[each] for each in node.all_input_nodes))
        if node.op == "placeholder" and node.name in names:
            tensor = values[node] = tensors[names[node.name]].detach()
            sources = frozenset({Source(tensor.numel(), 8 * tensor.element_size())})
        elif node.op == "call_function" and node.all_input_nodes and all(one in values for one in node.all_input_nodes):
            made = node.target(*torch.fx.map_arg(node.args, values.get), **torch.fx.map_arg(node.kwargs, values.get))
            if not isinstance(made, torch.Tensor):
                continue
            values[node] = made
            sources = frozenset[Source]().union(*(known[each].sources for each in node.all_input_nodes))
        else:
            continue
        known[node] = Constant(values[node].float().numpy(), sources, stored=node.op == "placeholder")
    ends = [each for node in program.graph.nodes if node.op == "output" for each in node.args[0]]
    return [[known[node] for node in leads[end] if node in known] for end in ends]


READERS: dict[str, Callable[[Path], list[list[Constant]]]] = {
    ".onnx": in_onnx,
    ".xml": in_openvino,
    ".pt2": in_pt2,
}


def same_weight(found: Array, weight: Array, *, error: float = 0.35) -> bool:
    """Whether a constant is this weight, perhaps rounded, turned, or without the steps of its rows or columns.

    A tensor of one axis has to be the same but for rounding to bfloat16.
    """
    if found.size != weight.size or found.dtype.kind not in "fiuV":
        return False
    if weight.ndim < 2:
        return bool(np.allclose(found.reshape(-1), weight.reshape(-1), rtol=2**-8, atol=1e-7))
    return any(_off(form, weight) < error for form in _forms(found, weight))


def _forms(found: Array, weight: Array) -> Iterator[Array]:
    rows = weight.reshape(len(weight), -1)
    yield found.reshape(rows.shape)
    if found.ndim >= 2 and found.shape[0] * found.shape[1] == found.size:
        turned = found.reshape(found.shape[:2]).T
        if turned.shape == rows.shape:
            yield turned


def _off(found: Array, weight: Array) -> float:
    """The relative error of a weight, each of its rows or columns by the factor that suits it best."""
    wide, goal = found.astype(np.float64), weight.reshape(len(weight), -1).astype(np.float64)
    size = max(float(np.linalg.norm(goal)), 1e-30)
    best = float(np.linalg.norm(goal - wide)) / size
    for axis in (0, 1):
        if goal.shape[axis] >= _ENOUGH:
            square = (wide * wide).sum(axis, keepdims=True)
            factor = (wide * goal).sum(axis, keepdims=True) / np.where(square > 0, square, 1)
            best = min(best, float(np.linalg.norm(goal - factor * wide)) / size)
    return best


def width_of(constants: Iterable[Constant], weight: Array) -> float | None:
    """The bits in which a number of this weight is stored, or None where the weight is not found.

    Of a tensor that is there several times the widest counts; of what is computed, the narrowest it is computed from.
    """
    found = [constant for constant in constants if same_weight(constant.values, weight)]
    there = [constant.width() for constant in found if constant.stored]
    return max(there) if there else min((constant.width() for constant in found), default=None)
