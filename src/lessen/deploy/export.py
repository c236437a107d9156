"""Write a network to a file that another program runs: ONNX, OpenVINO, or a PyTorch program.

Each file is written whole or not at all, holds all its weights, and takes any number of examples at a time, and any
length of text and size of images that the network takes (`lessen.deploy.axes`). Quantized networks come out with their
weights stored as integers and a QuantizeLinear / DequantizeLinear pair on every edge.
"""

from __future__ import annotations

import io
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
from lessen.deploy import attention
from lessen.deploy.axes import Trial, axes_of, say_fixed, trials
from lessen.deploy.compact import compact
from lessen.deploy.forms.base import twins
from lessen.deploy.quiet import exporting
from lessen.deploy.runtimes import TARGET, trust_pt2
from lessen.operations.quantize.network import target_of
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.places import bake
from lessen.surgery.returns import give_parts
from lessen.surgery.tracing import TERMS, SizesError, terms_limited


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
    from lessen.deploy.onnx_model import onnx_model

    path = Path(path)
    exported = program or trace_sizes(model, inputs)[0]
    if program is None and axes_of(exported).free:
        try:
            return export_onnx(model, inputs, path, optimize=optimize, program=exported)
        except ExportError:  # an operator that is only known for fixed sizes
            exported = trace(model, inputs, free=False)
    try:
        proto = onnx_model(exported, optimize=optimize)
    except Exception as error:
        if not any(node.target is attention.ATTENTION for node in exported.graph.nodes):
            raise ExportError(f"{type(model).__name__} cannot be exported to ONNX. {_last_line(error)}") from error
        try:  # attention whose lengths nobody knows: in PyTorch's operators
            with exporting():
                exported = exported.run_decompositions({attention.ATTENTION: attention.by_definition})
            proto = onnx_model(exported, optimize=optimize)
        except Exception as again:
            raise ExportError(f"{type(model).__name__} cannot be exported to ONNX. {_last_line(again)}") from again
    target = target_of(model)
    if target is not None:
        proto.metadata_props.add(key=TARGET, value=target)
    write_bytes(path, _serialized(proto, type(model).__name__))
    return path


@public
def export_pt2(
    model: nn.Module, inputs: Inputs, path: Path | str, *, program: torch.export.ExportedProgram | None = None
) -> Path:
    """Write a network as a `torch.export` program; `torch.export.load(path).module()` runs it, without lessen.

    Arguments as of `export_onnx`.

    Raises:
        ExportError: the network cannot be traced.
    """
    from lessen.deploy.onnx_model import own_decompositions

    path = Path(path)
    exported = program or trace_sizes(model, inputs)[0]
    table = own_decompositions()
    with exporting():
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
    from lessen.deploy.onnx_model import for_openvino

    openvino = need("openvino", "openvino")
    path = Path(path)
    with scratch() as folder:
        part = folder / path.name
        try:
            model = openvino.Core().read_model(for_openvino(onnx_file))
            for twin in twins():
                twin.for_openvino(openvino, model)
            compact(openvino, model)
            openvino.save_model(model, str(part), compress_to_fp16=False)
        except RuntimeError as error:
            raise ExportError(f"OpenVINO cannot read {onnx_file}. {_last_line(error)}") from error
        write_whole(path.with_suffix(".bin"), lambda to: to.write_bytes(part.with_suffix(".bin").read_bytes()))
        write_whole(path, lambda to: to.write_bytes(part.read_bytes()))
    return path


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
    own = give_parts(bake(copy_network(model).eval().cpu()))
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
        with exporting(), torch.no_grad():
            return torch.export.export(own, args, kwargs, dynamic_shapes=_for_forward(own, shapes), strict=False)

    grown = False
    if free and any(value.ndim > 1 for _, value in named_values(two)):
        try:
            with terms_limited():
                return exported(free=True)
        except Exception as error:  # noqa: BLE001  (whatever the exporter trips over; the batch alone is tried then)
            grown = isinstance(error, SizesError)
    try:
        program = exported(free=False)
    except Exception as error:
        raise ExportError(
            f"{type(model).__name__} cannot be traced for a variable batch size. {_last_line(error)} Look for Python "
            "branches on values of tensors, and for shapes with a fixed batch size."
        ) from error
    if grown:
        say_fixed(program, f"The sizes inside the network depend on those of its inputs in more than {TERMS:,} terms")
    return program


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


def _last_line(error: BaseException) -> str:
    """The innermost cause, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else 'no message'}."
