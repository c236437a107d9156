"""Which kernels a file really runs: read from the graph that the runtime made of it, not from the file.

A file may hold int8 weights and be computed in floating point all the same. What counts is the share of the
multiply-adds that are done by integer kernels, and that can only be seen after the runtime has optimised the graph.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import ExportError
from lessen.core.scratch import scratch
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Runtime, compile_openvino, named, open_session

_INTEGER = frozenset(
    {"QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
    | {"DynamicQuantizeMatMul", "QAttention", "QLinearConvTranspose"}
)
# Operators that multiply and add, and the place of the second operand among their inputs.
_SECOND = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvTranspose", "NhwcFusedConv", "ConvInteger"], 1),
    **dict.fromkeys(["MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulInteger", "MatMulIntegerToFloat"], 1),
    **dict.fromkeys(["QLinearConv", "QLinearConvTranspose", "QLinearMatMul", "QGemm"], 3),
    **dict.fromkeys(["DynamicQuantizeMatMul", "MatMulNBits"], 1),
}
_TRANSPOSED = frozenset({"ConvTranspose", "QLinearConvTranspose"})


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """The kernels of a file.

    Args:
        counts: How many kernels of each type.
        multiply_adds: Multiply-adds of one example, by type of kernel.
        integer_share: Share of all multiply-adds that integer kernels do, in percent.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    multiply_adds: Mapping[str, int] = field(default_factory=dict)
    integer_share: float = 0.0


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
        products = [node for node in model.graph.node if node.op_type in _SECOND]
        integer = sum(node.op_type in _INTEGER for node in products)
        if integer != sum(counts[name] for name in _INTEGER):
            raise ExportError(f"ONNX Runtime chooses different integer kernels for {file} when it changes the layout.")
        shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
        # Shapes of what is computed are seen in a run with every operand and result of a product given out.
        wanted = {name for node in products for name in (*_operands(node), node.output[0])} - set(shapes)
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
        first, second = (shapes[name] for name in _operands(node))
        work[node.op_type] += _multiply_adds(node.op_type, first, second, shapes[node.output[0]])
    return _kernels(counts, work, integer=_INTEGER)


def _operands(node: Any) -> tuple[str, str]:
    return node.input[0], node.input[_SECOND[node.op_type]]


def _multiply_adds(op: str, first: tuple[int, ...], second: tuple[int, ...], result: tuple[int, ...]) -> int:
    if op in _TRANSPOSED:
        return math.prod(first) * math.prod(second[1:])
    if "Conv" in op:  # a weight of shape (O, I / groups, ...), in OpenVINO (groups, O / groups, I / groups, ...)
        return math.prod(result) * math.prod(second[1 + len(second) - len(first) :])
    # The inner size of a matrix product is what the operands have in addition to the result's rows and columns.
    rows = math.prod(result[:-1])
    return math.prod(result) * (math.prod(first) // rows if rows else 0)


def _read_openvino(file: Path, inputs: Inputs) -> Kernels:
    compiled = compile_openvino(file, threads=1)
    counts: Counter[str] = Counter()
    work: Counter[str] = Counter()
    integer: set[str] = set()
    for node in compiled.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        kind, precision = (_text(about, key) for key in ("layerType", "runtimePrecision"))
        if kind in {"Const", "Constant", "Input", "Parameter", "Output", "Result"}:
            continue
        name = f"{kind}:{precision}"
        counts[name] += 1
        if kind in {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "GroupConvolution"}:
            done = _openvino_multiply_adds(node)
            work[name] += done
            if precision in {"u8", "i8"}:
                integer.add(name)
    return _kernels(counts, work, integer=integer)


def _openvino_multiply_adds(node: Any) -> int:
    shapes = [_static(node.get_input_partial_shape(place)) for place in range(node.get_input_size())]
    result = _static(node.get_output_partial_shape(0))
    return _multiply_adds("Conv" if len(shapes[0]) > 3 else "MatMul", shapes[0], shapes[1], result)


def _static(shape: Any) -> tuple[int, ...]:
    """A shape for one example: the axis that is not known is that of the examples."""
    return tuple(size.get_length() if size.is_static else 1 for size in shape)


def _text(about: Any, key: str) -> str:
    value = about[key] if key in about else "?"  # noqa: SIM401 - OpenVINO's map has no get
    return str(getattr(value, "value", value))


def _kernels(counts: Mapping[str, int], work: Mapping[str, int], *, integer: Any) -> Kernels:
    total = sum(work.values())
    if not total:
        raise ExportError("The file has no kernel that multiplies and adds, so it is not the exported network.")
    share = 100 * sum(done for name, done in work.items() if name in integer) / total
    return Kernels(counts=dict(counts), multiply_adds=dict(work), integer_share=share)
