"""The programs that run a file: ONNX Runtime, OpenVINO and PyTorch, behind one contract.

A runtime loads a file at a pinned number of threads and gives back a `Program`, which is called with inputs as the
network is and returns a tensor. What the kernels of a file are is read by `lessen.deploy.kernels`.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lessen.core.data import Inputs, call
from lessen.core.errors import ExportError, LessenError, MissingExtraError, need
from lessen.core.machine import saturates_int8
from lessen.core.settings import settings
from lessen.core.tree import is_several, parts
from lessen.measure.timing import pinned_threads

TARGET = "lessen.target"
"""The name, among the metadata of a file, of the processors that it is made for: "any" or "vnni"."""
Level = Literal["all", "extended", "disable"]
Returned = Tensor | dict[str, Tensor]
Program = Callable[[Inputs], Returned]
"""A loaded file: from inputs to its output, or to a dict of its outputs by name where it has several, on the CPU."""


@runtime_checkable
class Runtime(Protocol):
    """What runs files of one kind. `name` is for people and records, `suffix` is that of its files."""

    name: str
    suffix: str

    def load(self, file: Path, *, threads: int) -> Program:
        """Load a file.

        Raises:
            ExportError: there is no such file, or it is damaged or of another format.
        """


@settings
class OnnxRuntime:
    """ONNX Runtime on the CPU, at its default level of optimisation."""

    name = "onnxruntime"
    suffix = ".onnx"

    def load(self, file: Path, *, threads: int) -> Program:
        session = open_session(file, threads=threads)
        names = [value.name for value in session.get_inputs()]
        given = [value.name for value in session.get_outputs()]
        taken = {value.name: (value.shape, value.type) for value in session.get_inputs()}

        def program(inputs: Inputs) -> Returned:
            try:
                return _answer(dict(zip(given, session.run(None, named(inputs, names)), strict=True)), file)
            except LessenError:
                raise
            except Exception as error:  # its classes derive from Exception alone
                raise ExportError(_unfit(file, inputs, taken)) from error

        return program


@settings
class OpenVino:
    """OpenVINO on the CPU, in fp32 where the file is fp32.

    Left alone, OpenVINO computes a file of fp32 in bf16 on processors that have it (AMX, AVX-512 with bf16), and rounds
    what goes into weights of 2 to 8 bits to 8 bits. lessen turns both off (INFERENCE_PRECISION_HINT=f32,
    DYNAMIC_QUANTIZATION_GROUP_SIZE=0), so that a file agrees with its network. Set them as well where the file is
    deployed.
    """

    name = "openvino"
    suffix = ".xml"

    def load(self, file: Path, *, threads: int) -> Program:
        compiled = compile_openvino(file, threads=threads)
        names = [value.get_any_name() for value in compiled.inputs]
        given = [_name_of(value, str(number)) for number, value in enumerate(compiled.outputs)]
        taken = {value.get_any_name(): (value.partial_shape, value.element_type) for value in compiled.inputs}
        request = compiled.create_infer_request()

        def program(inputs: Inputs) -> Returned:
            try:
                found = request.infer(named(inputs, names))
                return _answer({name: found[number].copy() for number, name in enumerate(given)}, file)
            except (RuntimeError, IndexError, KeyError) as error:
                raise ExportError(_unfit(file, inputs, taken)) from error

        return program


@settings
class TorchProgram:
    """A `torch.export` program run by PyTorch itself, operator by operator.

    `torch.export.load` executes what a file holds: pickles, guards and sizes that are Python expressions, names of
    functions, compiled libraries. So only programs that this process has written itself are loaded, and those that
    `trust_pt2` was called for.
    """

    name = "pytorch"
    suffix = ".pt2"

    def load(self, file: Path, *, threads: int) -> Program:
        if _identity(_existing(file)) not in _trusted:
            raise ExportError(
                f"{file} is a torch.export program that this process did not write, and loading it executes its "
                "content. If you trust this file, allow it with --allow-import (in Python: "
                "lessen.deploy.trust_pt2(file))."
            )
        try:
            module = torch.export.load(file).module()
        except Exception as error:  # whatever a damaged archive leads to
            raise ExportError(f"{file} is not a whole torch.export program: {error}. Export it again.") from error

        def program(inputs: Inputs) -> Returned:
            try:
                with pinned_threads(threads), torch.no_grad():
                    returned = call(module, inputs)
                    return parts(returned) if is_several(returned) else returned
            except LessenError:
                raise
            except Exception as error:  # guards of the program raise AssertionError, operators whatever they like
                raise ExportError(f"{file} does not run on inputs like these: {error}") from error

        return program


def _answer(outputs: Mapping[str, Any], file: Path) -> Returned:
    """The outputs as tensors, if they are arrays of numbers; one by itself has an axis of examples."""
    for number, value in enumerate(outputs.values()):
        wanted = value.ndim > 0 or len(outputs) > 1 if isinstance(value, np.ndarray) else False
        if not wanted or value.dtype.kind not in "biuf":
            what = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
            which = "first output" if number == 0 else f"output {number + 1}"
            raise ExportError(
                f"The {which} of {file} is {what}; expected numbers of shape (N, ...), one row per example."
            )
    if not outputs:
        raise ExportError(f"{file} has no outputs; export it again.")
    found = {name: torch.from_numpy(value) for name, value in outputs.items()}
    return found if len(found) > 1 else next(iter(found.values()))


def _name_of(port: Any, otherwise: str) -> str:
    """The name of an output of an OpenVINO model."""
    names = port.get_names()
    return port.get_any_name() if names else otherwise


def _unfit(file: Path, inputs: Inputs, taken: Mapping[str, tuple[Any, Any]]) -> str:
    """What was given to a file and what it takes."""
    values = {"inputs": inputs} if isinstance(inputs, Tensor) else inputs
    pairs = values.items() if isinstance(values, Mapping) else enumerate(values)
    given = ", ".join(f"{tuple(value.shape)} {value.dtype}" for _, value in pairs if isinstance(value, Tensor))
    wanted = ", ".join(
        f"{name} ({', '.join(map(str, shape))}) {str(kind).removeprefix('tensor(').removesuffix(')')}"
        for name, (shape, kind) in taken.items()
    )
    return f"{file} does not run on inputs of shape {given}. It takes: {wanted}. Give data of that shape."


def trust_pt2(file: Path | str) -> None:
    """Allow this process to load a `torch.export` program, and so to execute whatever it holds, until it changes.

    Raises:
        ExportError: there is no such file.
    """
    _trusted.add(_identity(_existing(Path(file))))


_trusted: set[tuple[int, ...]] = set()


def _identity(file: Path) -> tuple[int, ...]:
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def installed() -> Sequence[Runtime]:
    """The runtimes that this installation has."""
    found: list[Runtime] = [OnnxRuntime()]
    try:
        need("openvino", "openvino")
        found.append(OpenVino())
    except MissingExtraError:
        pass
    return (*found, TorchProgram())


def open_session(file: Path, *, threads: int, level: Level = "all", optimized: Path | None = None) -> Any:
    """An ONNX Runtime session; `optimized` is where it leaves the graph that it really runs.

    Args:
        file: The ONNX file.
        threads: How many threads one operator may use; operators run one after another.
        level: How far to optimise: "all" is what ONNX Runtime does by itself, "extended" leaves the layout of tensors
            alone, "disable" runs the nodes of the file as they are.
        optimized: Where to write the optimised graph, with its weights in a file next to it, or None.

    Raises:
        ExportError: there is no such file, or ONNX Runtime does not take it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # what is worse than a warning is raised as well
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = {
        "all": levels.ORT_ENABLE_ALL,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "disable": levels.ORT_DISABLE_ALL,
    }[level]
    # Threads that spin after a run would take their core from whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
        # Its weights go to a file of their own: to read the graph, nobody needs them.
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{optimized.name}.data"
        )
    try:
        session = onnxruntime.InferenceSession(str(_existing(file)), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes derive from Exception alone
        raise ExportError(f"ONNX Runtime cannot load {file}: {error}. Export it again.") from error
    _check_target(file, session.get_modelmeta().custom_metadata_map.get(TARGET))
    return session


def read_openvino(file: Path, inputs: Inputs | None = None) -> Any:
    """An OpenVINO model as it is in its file.

    Args:
        file: The file.
        inputs: With the shapes of these inputs; None: with those of the file.
    """
    model = _core(need("openvino", "openvino")).read_model(str(_existing(file)))
    if inputs is not None:
        arrays = named(inputs, [value.get_any_name() for value in model.inputs])
        model.reshape({name: list(array.shape) for name, array in arrays.items()})
    return model


def compile_openvino(file: Path, *, threads: int, inputs: Inputs | None = None) -> Any:
    """An OpenVINO model compiled for the CPU.

    Args:
        file: The file.
        threads: How many threads it gets.
        inputs: Compile it for inputs of these shapes only; None: for all that it takes.

    Raises:
        MissingExtraError: OpenVINO is not installed.
        ExportError: there is no such file, or OpenVINO does not take it.
    """
    openvino = need("openvino", "openvino")
    settings_of_plugin = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Otherwise processors with bf16 units silently compute fp32 files in bf16.
        "INFERENCE_PRECISION_HINT": "f32",
        # Otherwise products with weights of 2, 4 and 8 bits round what they are given to 8 bits.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
    }
    try:
        model = read_openvino(file, inputs)
        compiled = _core(openvino).compile_model(model, "CPU", settings_of_plugin)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot load {file}: {error}. Export it again.") from error
    place = ["framework", TARGET]
    _check_target(file, str(model.get_rt_info(place).value) if model.has_rt_info(place) else None)
    return compiled


def _check_target(file: Path, target: str | None) -> None:
    """Warn where a file with 8-bit weights runs on a processor that adds their products in 16 bits."""
    if target == "vnni" and saturates_int8():
        warnings.warn(
            f"{file} has 8-bit weights, for processors with VNNI. This one adds products in 16 bits and may silently "
            "saturate. Quantize with target='any', which uses 7 bits.",
            stacklevel=4,
        )


@functools.cache
def _core(openvino: Any) -> Any:
    return openvino.Core()


def named(inputs: Inputs, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs by the names that a file gives them: positional in order, keywords by name."""
    if isinstance(inputs, dict):
        given = {name: inputs[name] for name in names if name in inputs}
    else:
        values = (inputs,) if isinstance(inputs, Tensor) else inputs
        given = dict(zip(names, values, strict=False))
    if len(given) != len(names):
        raise ExportError(f"The file takes {len(names)} inputs ({', '.join(names)}), but got {len(given)}.")
    return {name: value.detach().cpu().contiguous().numpy() for name, value in given.items()}


def _existing(file: Path) -> Path:
    if not Path(file).is_file():
        raise ExportError(f"There is no file {file}. Export the network first.")
    return Path(file)
