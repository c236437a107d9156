"""A traced network as an ONNX model, everything stored in as many bits as it has.

Importing the packages that write ONNX takes as long as importing PyTorch: `export` imports this module when a file is
asked for.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import Sequential
from onnx_ir.passes import common as passes

from lessen.core.errors import ExportError
from lessen.deploy import attention, pools, sizes
from lessen.deploy.axes import Axes, axes_of
from lessen.deploy.constants import Constants
from lessen.deploy.forms.base import joined, twins
from lessen.deploy.lowered import exported_as_lowered, lowered, translated
from lessen.deploy.pads import absorb_pads
from lessen.deploy.quiet import exporting
from lessen.deploy.recurrent import KERNEL, in_standard_operators
from lessen.deploy.rows import choose_rows
from lessen.deploy.simplify import simplify

OPSET = 21
_REWRITTEN = (attention, pools, sizes)
"""Operators of PyTorch that are written in another way than the exporter does."""
_SHARED = 2**16
"""Constants of up to so many numbers are written once where they are equal; larger ones hardly ever are."""


def onnx_model(exported: torch.export.ExportedProgram, *, optimize: bool) -> Any:
    """The program as an ONNX model: at once where all its operators have a translation, else as PyTorch does it."""
    own = own_translations()
    if pools.places_are_read(exported):
        if axes_of(exported).free:
            raise ExportError("Adaptive pooling that returns places is written for one size only.")
        own = {operator: translation for operator, translation in own.items() if operator not in pools.LARGEST}
    with contextlib.suppress(Exception):  # what is not as it was foreseen is left to the exporter
        with exporting():
            direct = lowered(exported, translated() | own.keys())
        if direct is not None:
            with exported_as_lowered():
                return _written(direct, own, optimize=optimize)
    return _written(exported, own, optimize=optimize)


def own_translations() -> dict[Any, Any]:
    """What lessen's own operators are in ONNX, and those of PyTorch that lessen writes in another way."""
    return joined([*(twin.translations() for twin in twins()), *(each.translations() for each in _REWRITTEN)])


def own_decompositions() -> dict[Any, Any]:
    """What lessen's own operators are in PyTorch's."""
    return joined(twin.decompositions() for twin in twins())


def _written(exported: torch.export.ExportedProgram, own: dict[Any, Any], *, optimize: bool) -> Any:
    """The program as an ONNX model, everything stored in as many bits as it has."""
    with exporting():
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
        constants = Constants(model, joined(twin.operators() for twin in twins()))
        if optimize:
            choose_rows(constants)
        for twin in twins():
            twin.store(constants)
        # What only tells where nodes come from goes too (stack traces, shapes): small networks are mostly that.
        Sequential(
            passes.RemoveUnusedNodesPass(),
            passes.RemoveUnusedOpsetsPass(),
            passes.DeduplicateInitializersPass(size_limit=_SHARED),
            passes.NameFixPass(),
            passes.ClearMetadataAndDocStringPass(),
        )(model)
        if absorb_pads(model.graph):
            passes.RemoveUnusedNodesPass()(model)
        _name_outputs(model, output_names(exported))
        _name_axes(model, axes_of(exported))
        proto = ir.to_proto(model)
        del proto.graph.value_info[:]
        for value in (*proto.graph.input, *proto.graph.output):
            del value.metadata_props[:]
        return proto


def output_names(exported: torch.export.ExportedProgram) -> list[str]:
    """The names of what a program returns: those of its dict (`core.tree.parts`), or "output" for one tensor."""
    spec = exported.call_spec.out_spec
    return [str(name) for name in spec.context] if spec is not None and spec.type is dict else ["output"]


def _name_outputs(model: Any, names: list[str]) -> None:
    """Name the outputs of an ONNX model; one that is an input, a constant or another output gets a value of its own."""
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
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            sizes = [size if isinstance(size, int) else str(size.value) for size in value.shape]
            value.shape = ir.Shape([size if isinstance(size, int) else axes.rename(size) for size in sizes])


def for_openvino(onnx_file: Path | str) -> str | bytes:
    """An ONNX file as OpenVINO reads it: kernels that only ONNX Runtime has are written in operators of ONNX."""
    proto = onnx.load(str(onnx_file))
    if not any(node.op_type == KERNEL for node in proto.graph.node):
        return str(onnx_file)
    model = ir.from_proto(proto)
    in_standard_operators(Constants(model, {}))
    content: bytes = ir.to_proto(model).SerializeToString()
    return content
