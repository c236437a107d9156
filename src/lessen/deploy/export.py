"""Write a network to a file that another program runs: ONNX, OpenVINO, or a PyTorch program.

Each file is written whole or not at all, holds all its weights, and takes any number of examples at a time, and any
length of text and size of images that the network takes (`lessen.deploy.axes`). Quantized networks come out with their
weights stored as integers and a QuantizeLinear / DequantizeLinear pair on every edge.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.batch import named_values
from lessen.core.calling import public
from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import ExportError, need
from lessen.core.files import write_bytes, write_whole
from lessen.core.scratch import scratch
from lessen.core.usable import check_precision, usable
from lessen.deploy import attention, low_bit, pairs, short
from lessen.deploy.axes import Axes, Trial, axes_of, trials
from lessen.deploy.compact import compact
from lessen.deploy.constants import Constants
from lessen.deploy.integers import store_integers
from lessen.deploy.lowered import exported_as_lowered, lowered, translated
from lessen.deploy.pads import absorb_pads
from lessen.deploy.recurrent import KERNEL, in_standard_operators
from lessen.deploy.registry import one_registry
from lessen.deploy.rows import choose_rows
from lessen.deploy.runtimes import TARGET, trust_pt2
from lessen.deploy.simplify import simplify
from lessen.deploy.two_bits import store_two_bits
from lessen.measure.timing import no_collection
from lessen.operations.quantize.network import target_of
from lessen.operations.quantize.operators import decompositions
from lessen.surgery.copying import copy_network
from lessen.surgery.masks import bake_masks
from lessen.surgery.recurrent_shapes import shapes_at_once
from lessen.surgery.returns import give_parts

OPSET = 21
_SHARED = 2**16
"""Constants of up to so many numbers are written once where they are equal; larger ones hardly ever are."""


@public
def export_onnx(
    model: nn.Module,
    inputs: Inputs,
    path: Path | str,
    *,
    optimize: bool = True,
    program: torch.export.ExportedProgram | None = None,
) -> Path:
    """Write a network as an ONNX file through `torch.export`, weights inside.

    Args:
        model: The network; it is not changed, and written as it is in eval mode.
        inputs: Example inputs; their values do not matter, their shapes do where the network fixes them.
        path: The file to write, ending in `.onnx`.
        optimize: False leaves the graph as it was traced, with each tensor of the state under its own name; what runs
            the file optimises it anyway.
        program: The network as `trace` returns it, where that was called already; that decides which sizes are free.
            None: all that the network takes other sizes at.

    Raises:
        ExportError: the network cannot be traced or has an operator that ONNX lacks, or it is too large for one file.
    """
    path = Path(path)
    exported = program or trace_sizes(model, inputs)[0]
    if program is None and axes_of(exported).free:
        try:
            return export_onnx(model, inputs, path, optimize=optimize, program=exported)
        except ExportError:  # an operator that is only known for fixed sizes
            exported = trace(model, inputs, free=False)
    try:
        proto = _onnx(exported, optimize=optimize)
    except Exception as error:
        if not any(node.target is attention.ATTENTION for node in exported.graph.nodes):
            raise ExportError(f"{type(model).__name__} cannot be exported to ONNX. {_last_line(error)}") from error
        try:  # attention whose lengths nobody knows: in PyTorch's operators
            with _exporting():
                exported = exported.run_decompositions({attention.ATTENTION: attention.by_definition})
            proto = _onnx(exported, optimize=optimize)
        except Exception as again:
            raise ExportError(f"{type(model).__name__} cannot be exported to ONNX. {_last_line(again)}") from again
    target = target_of(model)
    if target is not None:
        proto.metadata_props.add(key=TARGET, value=target)
    write_bytes(path, _serialized(proto, type(model).__name__))
    return path


def _onnx(exported: torch.export.ExportedProgram, *, optimize: bool) -> Any:
    """The program as an ONNX model: at once where all its operators have a translation, else as PyTorch does it."""
    own = own_translations()
    with contextlib.suppress(Exception):  # what is not as it was foreseen is left to the exporter
        with _exporting():
            direct = lowered(exported, translated() | own.keys())
        if direct is not None:
            with exported_as_lowered():
                return _written(direct, own, optimize=optimize)
    return _written(exported, own, optimize=optimize)


def own_translations() -> dict[Any, Any]:
    """What lessen's own operators are in ONNX."""
    return pairs.translations() | low_bit.translations() | short.translations() | attention.translations()


def _written(exported: torch.export.ExportedProgram, own: dict[Any, Any], *, optimize: bool) -> Any:
    """The program as an ONNX model, everything stored in as many bits as it has."""
    import onnx_ir as ir
    from onnx_ir.passes import Sequential
    from onnx_ir.passes import common as passes

    with _exporting():
        program = torch.onnx.export(
            exported,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,  # `simplify` does that
            custom_translation_table=own,
            verbose=False,
        )
        assert program is not None  # it returns a program when it gets no file
        model = program.model
        if optimize:
            simplify(model)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        constants = Constants(model, low_bit.stored() | short.stored())
        if optimize:
            choose_rows(constants)
        store_integers(constants)
        low_bit.store_low_bits(constants)
        short.store_short(constants)
        # What only tells where nodes come from goes too (stack traces, shapes): small networks are mostly that.
        Sequential(
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedOpsetsPass(),
            passes.DeduplicateInitializersPass(size_limit=_SHARED),
            passes.NameFixPass(),
            passes.ClearMetadataAndDocStringPass(),
        )(model)
        _name_outputs(model, output_names(exported))
        _name_axes(model, axes_of(exported))
        proto = ir.to_proto(model)
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            del value.metadata_props[:]
        absorb_pads(proto.graph)
        return proto


def output_names(exported: torch.export.ExportedProgram) -> list[str]:
    """The names of what a program returns: those of its dict (`core.tree.parts`), or "output" for one tensor."""
    spec = exported.call_spec.out_spec
    return [str(name) for name in spec.context] if spec is not None and spec.type is dict else ["output"]


def _name_outputs(model: Any, names: list[str]) -> None:
    """Name the outputs of an ONNX model; one that is an input, a constant or another output gets a value of its own."""
    import onnx_ir as ir

    graph, taken = model.graph, set()
    inside = {value.name for node in graph for value in node.outputs} | {value.name for value in graph.inputs}
    inside |= set(graph.initializers)
    for number, (value, name) in enumerate(zip(graph.outputs, names, strict=True)):
        if id(value) in taken or value.producer() is None:
            copied = ir.node("Identity", [value])
            graph.append(copied)
            copied.outputs[0].shape, copied.outputs[0].dtype = value.shape, value.dtype
            graph.outputs[number] = value = copied.outputs[0]
        taken.add(id(value))
        unique = name
        while unique in inside and value.name != unique:
            unique += "_output"
        inside |= {unique}
        value.name = unique


def _name_axes(model: Any, axes: Axes) -> None:
    """Give the sizes of inputs and outputs that are not fixed the names of their axes."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else str(size.value) for size in value.shape]
            value.shape = ir.Shape([size if isinstance(size, int) else axes.rename(size) for size in sizes])


@public
def export_pt2(
    model: nn.Module, inputs: Inputs, path: Path | str, *, program: torch.export.ExportedProgram | None = None
) -> Path:
    """Write a network as a `torch.export` program; `torch.export.load(path).module()` runs it, without lessen.

    Arguments as of `export_onnx`.

    Raises:
        ExportError: the network cannot be traced.
    """
    path = Path(path)
    exported = program or trace_sizes(model, inputs)[0]
    table = decompositions() | low_bit.decompositions() | short.decompositions()
    with _exporting():
        if any(node.target in table for node in exported.graph.nodes):
            exported = exported.run_decompositions(table)
        buffer = io.BytesIO()
        torch.export.save(exported, buffer)
    write_bytes(path, buffer.getvalue())
    trust_pt2(path)
    return path


@public
def export_openvino(onnx_file: Path | str, path: Path | str) -> Path:
    """Turn an ONNX file, fp32 or with quantize pairs, into an OpenVINO model: `path` (`.xml`) and a `.bin` next to it.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ExportError: OpenVINO does not read the file.
    """
    openvino = need("openvino", "openvino")
    path = Path(path)
    with scratch() as folder:
        part = folder / path.name
        try:
            model = openvino.Core().read_model(_readable(onnx_file))
            store_two_bits(openvino, model)
            compact(openvino, model)
            openvino.save_model(model, str(part), compress_to_fp16=False)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot read {onnx_file}. {_last_line(error)}") from error
        write_whole(path.with_suffix(".bin"), lambda to: to.write_bytes(part.with_suffix(".bin").read_bytes()))
        write_whole(path, lambda to: to.write_bytes(part.read_bytes()))
    return path


def _readable(onnx_file: Path | str) -> str | bytes:
    """An ONNX file as OpenVINO reads it: kernels that only ONNX Runtime has are written in operators of ONNX."""
    import onnx
    import onnx_ir as ir

    proto = onnx.load(str(onnx_file))
    if not any(node.op_type == KERNEL for node in proto.graph.node):
        return str(onnx_file)
    model = ir.from_proto(proto)
    in_standard_operators(Constants(model, {}))
    content: bytes = ir.to_proto(model).SerializeToString()
    return content


def trace(model: nn.Module, inputs: Inputs, *, free: bool = True) -> torch.export.ExportedProgram:
    """The network as a graph of operators, in eval mode, for any number of examples.

    Args:
        model: The network; it is not changed.
        inputs: Example inputs.
        free: Whether all other axes are free as well where nothing in the network fixes them.

    Raises:
        NetworkError: it is no network that can be worked on (`core.usable`), or computes in another precision than the
            inputs have.
        ExportError: the network cannot be traced.
    """
    model = usable(model)
    check_precision(model, inputs)
    own = give_parts(bake_masks(copy_network(model).eval().cpu()))
    # One example would be taken for the constant 1.
    two = map_inputs(inputs, lambda value: (value if value.shape[0] > 1 else torch.cat([value, value])).cpu())
    args: tuple[Tensor, ...] = () if isinstance(two, dict) else (two,) if isinstance(two, Tensor) else two
    kwargs = two if isinstance(two, dict) else {}

    def exported(*, free: bool) -> torch.export.ExportedProgram:
        any_size, automatic = torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO
        shapes: Any = map_inputs(
            two, lambda value: {0: any_size, **(dict.fromkeys(range(1, value.ndim), automatic) if free else {})}
        )
        shapes = shapes if isinstance(shapes, dict) and kwargs else shapes if args and len(args) > 1 else (shapes,)
        with _exporting(), torch.no_grad():
            return torch.export.export(own, args, kwargs, dynamic_shapes=_for_forward(own, shapes), strict=False)

    if free and any(value.ndim > 1 for _, value in named_values(two)):
        with contextlib.suppress(Exception):  # whatever the exporter trips over; the batch alone is tried then
            return exported(free=True)
    try:
        return exported(free=False)
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be traced for a variable batch size. {_last_line(error)} Look for Python "
            "branches on values of tensors, and for shapes with a fixed batch size."
        ) from error


def trace_sizes(model: nn.Module, inputs: Inputs) -> tuple[torch.export.ExportedProgram, list[Trial]]:
    """The network as `trace` returns it, with the sizes free at which it was seen to run; and what it gave there.

    Where the exporter finds axes free, but the network runs at no other size that is tried, only the batch is free:
    images that are flattened for a linear layer, whose sizes need only have the same product.

    Args:
        model: The network; it is not changed.
        inputs: Example inputs.

    Raises:
        ExportError: the network cannot be traced.
    """
    program = trace(model, inputs)
    axes = axes_of(program)
    tried = trials(model, inputs, axes)
    return (trace(model, inputs, free=False), []) if axes.free and not tried else (program, tried)


def _for_forward(model: nn.Module, shapes: Any) -> Any:
    """Dynamic shapes must mirror the signature of `forward`: a `*args` takes one tuple."""
    import inspect

    kinds = [parameter.kind for parameter in inspect.signature(model.forward).parameters.values()]
    if isinstance(shapes, tuple) and kinds and kinds[0] is inspect.Parameter.VAR_POSITIONAL:
        return (shapes,)
    return shapes


def _serialized(proto: Any, name: str) -> bytes:
    from google.protobuf.message import EncodeError

    try:
        content: bytes = proto.SerializeToString()
    except EncodeError as error:
        raise ExportError(
            f"{name} does not fit into one ONNX file, which is limited to 2 GiB. Make the network smaller first."
        ) from error
    return content


@contextlib.contextmanager
def _exporting() -> Iterator[None]:
    """Without what exporters print, log and warn about themselves: what matters comes as an exception.

    Also without the garbage collector: it would look again and again at the growing graph, a fifth of the whole time.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        quiet, still = contextlib.redirect_stdout(io.StringIO()), no_collection()
        with warnings.catch_warnings(), quiet, still, one_registry(), shapes_at_once():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _last_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}."
