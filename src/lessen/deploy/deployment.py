"""From a network to the shipped file: export every kind, verify each, time all, recommend one.

    folder/model.onnx  model.int8.onnx  model.xml  model.int8.xml  model.pt2
    folder/steps/1.onnx  2.onnx ...
    folder/reference/teacher.onnx  teacher.xml  teacher.pt2

The teacher's own fp32 file is timed in the same run and the same runtime; a speed-up is against that. A file that
cannot be written, or that disagrees with its network, is reported with the reason and never recommended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import nn

from lessen.core.calling import public
from lessen.core.data import Data, Inputs
from lessen.core.errors import ExportError
from lessen.core.record import Record
from lessen.core.scratch import scratch
from lessen.core.tree import parts
from lessen.deploy.axes import Axes, Trial, axes_of, why_fixed
from lessen.deploy.export import export_onnx, export_openvino, export_pt2, trace, trace_sizes
from lessen.deploy.kernels import read_kernels
from lessen.deploy.planned import Deploy, DeployedFile, StepNetwork, planned
from lessen.deploy.recommend import Recommendation, recommend
from lessen.deploy.records import records_of
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Program, TorchProgram
from lessen.deploy.timing import time_files
from lessen.deploy.verify import Verification, failed, off_by, verify
from lessen.measure.evaluate import Outputs, evaluate
from lessen.measure.kept import KeptOutputs
from lessen.measure.latency import Speed
from lessen.measure.quality import quality
from lessen.measure.size import file_bytes
from lessen.measure.task import guessed
from lessen.measure.timings import Timings
from lessen.operations.quantize.network import limit_at


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """The files and their results.

    Args:
        files: Every file.
        recommended: The name of the fastest of the network's files that passed verification, or None if none did. Of
            files that are equally fast within the interval it is the smallest; of all, if the machine was busy.
        notes: What a user must know, one sentence each: files that failed, int8 files that are slower than fp32.
        records: Every measurement, for `records.jsonl`.
    """

    files: tuple[DeployedFile, ...]
    recommended: str | None
    notes: tuple[str, ...]
    records: list[Record]


@public
def deploy(
    model: nn.Module,
    data: Data,
    folder: Path | str,
    *,
    int8: nn.Module | None = None,
    reference: nn.Module | None = None,
    settings: Deploy | None = None,
    seed: int = 0,
) -> Deployed:
    """Export a network for every runtime, verify on the validation split, read kernels, time, and recommend one file.

    Args:
        model: The network.
        data: Example inputs, validation examples to verify on, test examples to report on.
        folder: Where to write.
        int8: The same network quantized, or None.
        reference: The teacher; its files are timed in the same run. None compares with the network's own fp32 file.
        settings: Which files, how verified, how timed.
        seed: Of the order of timing.
    """
    networks = [] if reference is None else [StepNetwork(name="teacher", step=0, network=reference)]
    networks += [StepNetwork(name="model", step=1, network=model)]
    networks += [] if int8 is None else [StepNetwork(name="int8", step=2, network=int8)]
    return deploy_steps(networks, data, folder, settings=settings, seed=seed)


@public
def deploy_steps(
    networks: Sequence[StepNetwork], data: Data, folder: Path | str, *, settings: Deploy | None = None, seed: int = 0
) -> Deployed:
    """The same for a pipeline: the network after each step, the teacher first.

    The last network is shipped. If it is quantized and the one before it is not, that one, the same in fp32, is shipped
    as well: the faster of the two is recommended.

    Args:
        networks: The networks; at least one that is not the teacher.
        data: As of `deploy`.
        folder: As of `deploy`.
        settings: As of `deploy`.
        seed: As of `deploy`.

    Raises:
        NetworkError: there is no network to deploy.
    """
    settings = settings or Deploy()
    folder, threads = Path(folder), settings.threads or torch.get_num_threads()
    files = planned(networks, folder, settings)
    inputs = data.example()
    task = guessed(data, networks[0].network).task
    programs: dict[str, Program] = {}
    tracing, outputs = _Tracing(inputs), KeptOutputs()
    taught: Outputs | None = None
    # The teacher's files come first: what they say to the test split is what all others are compared with.
    for file in sorted(files, key=lambda each: not each.reference):
        limits = settings.limits
        try:
            program = _made(file, tracing, threads=threads, limits=limits)
            file.kernels = read_kernels(file.runtime, file.path, inputs)
            file.bytes = file_bytes(file.path)
        except ExportError as error:
            file.verified = failed(str(error))
            continue
        file.verified = verify(
            program,
            file.network,
            data.validation,
            task=task,
            int8=file.int8,
            limits=limits,
            outputs=outputs,
            output=data.output,
        )
        programs[file.name] = program
        # Outputs of another shape, or that are not finite, have no quality; the verification says what is wrong.
        if file.verified.max_difference is not None:
            told = evaluate(program, data.test, output=data.output, task=task)
            file.quality = tuple(quality(told, None if file.reference else taught, task=task))
            taught = told if file.reference and taught is None else taught
    del tracing, outputs  # they can be as large as a network
    first = settings.batch_sizes[0]
    timed = _time(files, programs, data, settings, seed=seed)
    named = recommend(files, first, {runtime: taken[first] for runtime, taken in timed.items()})
    about = {"threads": threads, "repeats": settings.rounds}
    return Deployed(
        files=tuple(files),
        recommended=None if named is None else named.file.name,
        notes=tuple(_notes(files, named, first)),
        records=[record for file in files for record in records_of(file, named, data, about=about)],
    )


@dataclass
class _Tracing:
    """What one file leaves for the next: the last network's graph, and the ONNX files, which OpenVINO's are made from.

    The files of one network follow each other, so it is traced once.
    """

    inputs: Inputs
    written: dict[Path, bool] = field(default_factory=dict)
    last: _Traced | None = None

    def of(self, network: nn.Module) -> _Traced:
        """The network as a graph, with its free axes and what it gives at other sizes."""
        if self.last is None or self.last.network is not network:
            self.last = _traced(network, self.inputs)
        return self.last


@dataclass
class _Traced:
    """The graph of a network: with free axes, and with fixed ones where a file is wrong at other sizes."""

    network: nn.Module
    program: torch.export.ExportedProgram
    axes: Axes
    trials: list[Trial]
    fixed: torch.export.ExportedProgram | None = None

    def fixed_axes(self, inputs: Inputs, reason: str | None = None) -> Axes:
        """The axes where only the batch is free."""
        self.fixed = self.fixed or trace(self.network, inputs, free=False)
        axes = axes_of(self.fixed)
        return replace(axes, reason=reason or why_fixed(self.network, inputs, axes))


def file_axes(network: nn.Module, inputs: Inputs) -> Axes:
    """The axes that a file of a network has: which are free, and why none is.

    Args:
        network: The network; it is not changed.
        inputs: Example inputs.

    Raises:
        ExportError: the network cannot be traced.
    """
    return _traced(network, inputs).axes


def _traced(network: nn.Module, inputs: Inputs) -> _Traced:
    program, tried = trace_sizes(network, inputs)
    axes = axes_of(program)
    return _Traced(network, program, replace(axes, reason=why_fixed(network, inputs, axes)), tried)


def _made(file: DeployedFile, tracing: _Tracing, *, threads: int, limits: Verification) -> Program:
    """Write and load one file: with all axes free that the network leaves free, if it is right at other sizes."""
    traced = tracing.of(file.network)
    wrong: str | None = None
    if traced.axes.free:
        try:
            _write(file, tracing, traced.program, free=True)
            program = file.runtime.load(file.path, threads=threads)
            wrong = wrong_at(program, traced.trials, int8=file.int8, limits=limits)
            if wrong is None:
                file.axes, file.tried = traced.axes, tuple(map(str, traced.trials))
                return program
        except ExportError as error:
            wrong = str(error)
        file.axes = traced.fixed_axes(tracing.inputs, f"The network takes other sizes, this file does not: {wrong}")
        assert traced.fixed is not None
        _write(file, tracing, traced.fixed, free=False)
    else:
        file.axes = traced.axes
        _write(file, tracing, traced.program, free=False)
    return file.runtime.load(file.path, threads=threads)


def wrong_at(program: Program, sizes: Sequence[Trial], *, int8: bool, limits: Verification) -> str | None:
    """What is wrong with a file at other sizes than the traced one, in words; None if it agrees with its network.

    Args:
        program: The loaded file.
        sizes: The network at other sizes.
        int8: Whether the file computes in integers.
        limits: How far it may be.
    """
    limit = limits.int8_difference if int8 else limits.difference
    for trial in sizes:
        try:
            found = parts(program(trial.inputs))
        except ExportError as error:
            return f"at {trial} it does not run ({str(error)[:200]})"
        if len(found) != len(trial.wanted):
            return f"at {trial} it returns {len(found)} outputs instead of {len(trial.wanted)}"
        for name, one, other in zip(trial.wanted, found.values(), trial.wanted.values(), strict=True):
            off = off_by([one], [other], mean=int8)
            if isinstance(off, str) or off > limit:
                what = f"output {name}" if name else "output"
                return f"at {trial} its {what} {off if isinstance(off, str) else f'is off by {off:.1e}'}"
    return None


def _write(file: DeployedFile, tracing: _Tracing, program: torch.export.ExportedProgram, *, free: bool) -> None:
    """Write one file from the graph of its network."""
    inputs = tracing.inputs
    match file.runtime:
        case OnnxRuntime():
            tracing.written.pop(file.path, None)
            export_onnx(file.network, inputs, file.path, program=program)
            tracing.written[file.path] = free
        case OpenVino():
            source = file.path.with_suffix(".onnx")
            with scratch() as folder:
                if tracing.written.get(source) is not free:
                    source = export_onnx(file.network, inputs, folder / source.name, program=program)
                export_openvino(source, file.path)
        case TorchProgram():
            export_pt2(file.network, inputs, file.path, program=program)
        case _:
            raise ExportError(f"No exporter is known for {type(file.runtime).__name__}.")


def _time(
    files: Sequence[DeployedFile],
    programs: dict[str, Program],
    data: Data,
    settings: Deploy,
    *,
    seed: int,
) -> dict[str, dict[int, Timings]]:
    """Time all files, and return for each runtime and batch size what was seen."""
    timed = {}
    # One runtime after another: a pool of threads that is still awake would slow the next runtime's file.
    for runtime in dict.fromkeys(file.runtime.name for file in files):
        own = [file for file in files if file.runtime.name == runtime and file.name in programs]
        runs = {file.name: programs[file.name] for file in own}
        if not runs:
            continue
        sizes, rounds = settings.batch_sizes, settings.rounds
        timed[runtime] = time_files(runs, data.validation, batch_sizes=sizes, rounds=rounds, seed=seed)
        against = _reference(own)
        for file in own:
            file.against = against.name if against is not None and against is not file else None
            for size, taken in timed[runtime].items():
                file.speed[size] = Speed.of(taken, file.name, file.against)
    return timed


def _reference(files: Sequence[DeployedFile]) -> DeployedFile | None:
    plain = [file for file in files if not file.int8]
    return next((file for file in plain if file.reference), plain[0] if plain else None)


def _in_floating_point(file: DeployedFile) -> str | None:
    """What of an int8 file is not computed in integers, in words; None where it is next to nothing."""
    kernels = file.kernels
    if kernels.integer_share is None:
        return (
            f"{file.name}: how much of it is computed in integers is unknown, for {file.runtime.name} has kernels that "
            f"lessen does not know ({', '.join(kernels.unknown)})."
        )
    if isinstance(file.runtime, TorchProgram) or kernels.integer_share > _NEARLY_ALL:
        return None
    left = sorted(kernels.floating.items(), key=lambda each: -each[1])[:3]
    here = isinstance(file.runtime, OnnxRuntime)
    layers = [f"{path or 'the network'}: {type(part).__name__}" for path, part in file.network.named_modules()
              if isinstance(part, nn.RNNBase) and not (here and limit_at(file.network, path))]  # fmt: skip
    which = ", ".join([*layers, *(name for name, _ in left if not (layers and name.split(":")[0] in _RECURRENT))])
    return (
        f"{file.name}: {100 - kernels.integer_share:.2f} % of the multiply-adds ({which}) stay in 32 bits in "
        f"{file.runtime.name}."
    )


_NEARLY_ALL = 99.5
_RECURRENT = {"GRU", "LSTM", "RNN", "RNNSeq"}


def _notes(files: Sequence[DeployedFile], named: Recommendation | None, size: int) -> list[str]:
    notes = [f"{file.name} failed verification: {file.verified.reason}" for file in files if not file.verified.passed]
    fixed = {file.axes.reason: file for file in files if file.shipped and file.axes.reason is not None}
    notes += [f"{file.name} takes inputs of one size only. {reason}." for reason, file in fixed.items()]
    notes += [said for file in files if file.int8 and file.bytes and (said := _in_floating_point(file)) is not None]
    for file in files:
        plain = next((one for one in files if one.runtime == file.runtime and one.shipped and not one.int8), None)
        if not file.int8 or plain is None or size not in file.speed or size not in plain.speed:
            continue
        if file.target == "vnni":
            notes.append(f"{file.name} has 8-bit weights: it is for processors with VNNI (target='any' uses 7 bits).")
        was, now = plain.speed[size].latency, file.speed[size].latency
        if was is not None and now is not None and was.value < now.value:
            ratio = was.value / now.value
            notes.append(f"{file.name} is slower than {plain.name}: {ratio:.2f} times its speed at batch {size}.")
    reasons = [speed.conditions.busy for file in files for speed in file.speed.values() if speed.conditions.busy]
    if reasons:
        notes.append(f"The machine was busy, so there are no times: {reasons[0]}.")
    return notes if named else [*notes, "No file passed verification."]
