"""Which kernels a file really runs: read from the graph that the runtime made of it, not from the file.

A file may hold int8 weights and be computed in floating point all the same. What counts is the share of the
multiply-adds that are done by integer kernels, and that can only be seen after the runtime has optimised the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import ExportError
from lessen.core.scratch import scratch
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Runtime, compile_openvino, named, open_session, read_openvino

_INTEGER = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul", "QAttention", "QLinearConvTranspose"}
)
_INTEGER |= {"DynamicQuantizeLSTM"}
# Operators that multiply and add, and the place of the second operand among their inputs.
_SECOND = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvTranspose", "NhwcFusedConv", "ConvInteger"], 1),
    **dict.fromkeys(["MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"], 1),
    **dict.fromkeys(["QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm"], 3),
    **dict.fromkeys(["DynamicQuantizeMatMul", "MatMulNBits"], 1),
}
_TRANSPOSED = frozenset({"ConvTranspose", "QLinearConvTranspose"})
_RECURRENT = frozenset({"GRU", "LSTM", "RNN", "DynamicQuantizeLSTM"})
_ATTENTION = frozenset({"Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"})
_PRODUCTS = frozenset(_SECOND) | _RECURRENT | _ATTENTION | {"Einsum"}
# What takes tables or weights of two axes and more, and adds up no products of them.
_KNOWN = """
Add And ArgMax ArgMin BatchNormalization BiasAdd BiasGelu BiasSplitGelu Cast Clip Concat CumSum DequantizeLinear Div
DynamicQuantizeLinear EmbedLayerNormalization Equal Expand FastGelu Flatten Gather GatherBlockQuantized
GatherElements GatherND Greater GreaterOrEqual GroupNorm Identity InstanceNormalization LayerNormalization Less
LessOrEqual LogSoftmax Max Min Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow QLinearAdd QLinearConcat QLinearMul
QLinearWhere QuantizeLinear QuickGelu ReduceL2 ReduceMax ReduceMean ReduceMin ReduceSum ReorderInput ReorderOutput
Reshape Resize ScatterElements ScatterND Shape SimplifiedLayerNormalization SkipLayerNormalization Slice Softmax
Split Squeeze Sub Sum Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
_NO_PRODUCTS = frozenset(_KNOWN.split())
_NESTED = frozenset({"If", "Loop", "Scan"})
_OPENVINO_RECURRENT = frozenset({"RNNSeq", "RNNCell", "GRUSequence", "LSTMSequence", "RNNSequence"})
_OPENVINO_ATTENTION = frozenset({"ScaledDotProductAttention", "ScaledAttn", "MHA"})
_OPENVINO_PRODUCTS = _OPENVINO_RECURRENT | _OPENVINO_ATTENTION
_OPENVINO_PRODUCTS |= {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "GroupConvolution"}
_OPENVINO_NESTED = frozenset({"TensorIterator", "Loop", "If", "Einsum"})
_OPENVINO_FUSED = frozenset({"Subgraph"})
"""Several operators compiled into one kernel: attention, and on some processors small perceptrons."""


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernels of a file.

    Args:
        counts: How many kernels of each type.
        multiply_adds: Multiply-adds of one example, by type of kernel.
        integer_share: Share of all multiply-adds that integer kernels do, in percent; None where there are kernels with
            weights that lessen does not know.
        unknown: Those kernels.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    multiply_adds: Mapping[str, int] = field(default_factory=dict)
    integer_share: float | None = 0.0
    unknown: tuple[str, ...] = ()

    @property
    def floating(self) -> dict[str, float]:
        """The share of the multiply-adds of each type of kernel that computes in floating point, in percent."""
        total = sum(self.multiply_adds.values())
        return {
            name: 100 * work / total
            for name, work in self.multiply_adds.items()
            if work and name not in _INTEGER and not name.endswith((":u8", ":i8"))
        }


def read_kernels(runtime: Runtime, file: Path | str, inputs: Inputs) -> Kernels:
    """Read the kernels of a file in its runtime.

    Args:
        runtime: What runs the file; PyTorch programs have no kernels to read, and no integer ones.
        file: The file.
        inputs: Example inputs, for the shapes.

    Raises:
        ExportError: the runtime does not take the file.
    """
    one = map_inputs(inputs, lambda value: value[:1])
    if isinstance(runtime, OnnxRuntime):
        return _read_onnxruntime(Path(file), one)
    if isinstance(runtime, OpenVino):
        return _read_openvino(Path(file), one)
    return Kernels()


def _read_onnxruntime(file: Path, inputs: Inputs) -> Kernels:
    import onnx

    with scratch() as folder:
        whole, plain, probe = (folder / f"{name}.onnx" for name in ("whole", "plain", "probe"))
        open_session(file, threads=1, optimized=whole)
        counts = Counter(node.op_type for node in onnx.load(str(whole), load_external_data=False).graph.node)
        # The last optimisation pads channels to the width of a register; before it, shapes are those of the network.
        open_session(file, threads=1, level="extended", optimized=plain)
        model = onnx.load(str(plain), load_external_data=False)
        products = [node for node in model.graph.node if node.op_type in _PRODUCTS]
        wide = {tensor.name for tensor in model.graph.initializer if len(tensor.dims) > 1 and min(tensor.dims) > 1}
        unknown = {
            node.op_type
            for node in model.graph.node
            if node.op_type not in _PRODUCTS | _NO_PRODUCTS and (wide & set(node.input) or node.op_type in _NESTED)
        }
        integer = sum(node.op_type in _INTEGER for node in products)
        if integer != sum(counts[name] for name in _INTEGER):
            raise ExportError(f"ONNX Runtime chooses different integer kernels for {file} when it changes the layout.")
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        # Shapes of what is computed are seen in a run with every operand and result of a product given out.
        wanted = {name for node in products for name in (*filter(None, node.input), node.output[0])} - set(shapes)
        known = {value.name for value in (*model.graph.input, *model.graph.output)}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(wanted - known))
        onnx.save(model, str(probe))
        session = open_session(probe, threads=1, level="disable")
        given = named(inputs, [value.name for value in session.get_inputs()])
        shapes |= {name: value.shape for name, value in given.items()}
        names = [value.name for value in session.get_outputs()]
        shapes |= {name: value.shape for name, value in zip(names, session.run(names, given), strict=True)}
    work: Counter[str] = Counter()
    for node in products:
        work[node.op_type] += _work(node, [shapes.get(name, ()) for name in node.input], shapes[node.output[0]])
    return _kernels(counts, work, integer=_INTEGER, unknown=unknown)


def _work(node: Any, given: list[tuple[int, ...]], result: tuple[int, ...]) -> int:
    """The multiply-adds of a node of ONNX, from the shapes of all its inputs and of its first output."""
    op = node.op_type
    if op in _SECOND:
        return _multiply_adds(op, given[0], given[_SECOND[op]], result)
    if op in _RECURRENT:  # X (L, N, I) or (N, L, I), W and R for all gates and directions
        return math.prod(given[0][:2]) * (math.prod(given[1]) + math.prod(given[2]))
    if op in {"Attention", "QAttention"}:  # X (N, L, I), W (I, 3 C): three products, then two with the positions
        rows, length, wide = math.prod(given[0][:2]), given[0][1], given[1][-1] // 3
        return rows * math.prod(given[1]) + 2 * rows * length * wide
    if op in _ATTENTION:  # query (N, L, C), key and value (N, S, C) or (N, heads, S, C / heads)
        keys = given[1] if len(given) > 1 and given[1] else given[0]
        return 2 * math.prod(given[0]) * keys[-2]
    equation = next(each.s.decode() for each in node.attribute if each.name == "equation").replace(" ", "")
    terms = equation.split("->")[0].split(",")
    if len(terms) < 2:
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, given, strict=False):
        letters = term.replace("...", "")
        inside = len(shape) - len(letters)  # what stands for the dots
        place = term.find("...")
        names = [*letters[:place], *(f"{number}." for number in range(inside)), *letters[place:]] if inside else letters
        sizes |= {name: max(size, sizes.get(name, 1)) for name, size in zip(names, shape, strict=False)}
    return math.prod(sizes.values())


def _multiply_adds(op: str, first: tuple[int, ...], second: tuple[int, ...], result: tuple[int, ...]) -> int:
    if op in _TRANSPOSED:
        return math.prod(first) * math.prod(second[1:])
    if "Conv" in op:  # a weight of shape (O, I / groups, ...), in OpenVINO (groups, O / groups, I / groups, ...)
        return math.prod(result) * math.prod(second[1 + len(second) - len(first) :])
    # The inner size of a matrix product is what the operands have in addition to the result's rows and columns.
    rows = math.prod(result[:-1])
    return math.prod(result) * (math.prod(first) // rows if rows else 0)


def _read_openvino(file: Path, inputs: Inputs) -> Kernels:
    compiled = compile_openvino(file, threads=1, inputs=inputs)
    unknown: set[str] = set()
    counts: Counter[str] = Counter()
    work: Counter[str] = Counter()
    integer: set[str] = set()
    model = read_openvino(file, inputs)
    products = {op.get_friendly_name(): op for op in model.get_ops() if op.get_type_name() in _OPENVINO_PRODUCTS}
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind, precision = (_text(about, key) for key in ("layerType", "runtimePrecision"))
        if kind in {"Const", "Constant", "Input", "Parameter", "Output", "Result"}:
            continue
        name = f"{kind}:{precision}"
        counts[name] += 1
        if kind in _OPENVINO_NESTED:
            unknown.add(kind)
        if kind in _OPENVINO_PRODUCTS:
            done = _openvino_multiply_adds(node, kind)
            work[name] += done
            if precision in {"u8", "i8"}:
                integer.add(name)
        if kind in _OPENVINO_FUSED:
            for each in _text(about, "originalLayersNames").split(","):
                if each in products:
                    work[name] += _openvino_multiply_adds(products[each], products[each].get_type_name())
                    integer |= {name} if precision in {"u8", "i8"} else set()
    return _kernels(counts, work, integer=integer, unknown=unknown)


def _openvino_multiply_adds(node: Any, kind: str) -> int:
    shapes = [_static(node.get_input_partial_shape(place)) for place in range(node.get_input_size())]
    result = _static(node.get_output_partial_shape(0))
    if kind in _OPENVINO_RECURRENT:  # X (N, L, I), states, then W and R (directions, gates, ...)
        weights = sorted((math.prod(shape) for shape in shapes[1:] if len(shape) >= 2), reverse=True)[:2]
        return math.prod(shapes[0][:-1]) * sum(weights)
    if kind in _OPENVINO_ATTENTION:
        return 2 * math.prod(shapes[0]) * shapes[1][-2]
    return _multiply_adds("Conv" if len(shapes[0]) > 3 else "MatMul", shapes[0], shapes[1], result)


def _static(shape: Any) -> tuple[int, ...]:
    """A shape for one example: the axis that is not known is that of the examples."""
    return tuple(size.get_length() if size.is_static else 1 for size in shape)


def _text(about: Any, key: str) -> str:
    value = about[key] if key in about else "?"  # noqa: SIM401 - OpenVINO's map has no get
    return str(getattr(value, "value", value))


def _kernels(
    counts: Mapping[str, int], work: Mapping[str, int], *, integer: Any, unknown: Collection[str] = ()
) -> Kernels:
    total = sum(work.values())
    if not total and not unknown:
        raise ExportError("The file has no kernel that multiplies and adds, so it is not the exported network.")
    share = None if unknown else 100 * sum(done for name, done in work.items() if name in integer) / total
    return Kernels(counts=dict(counts), multiply_adds=dict(work), integer_share=share, unknown=tuple(sorted(unknown)))
