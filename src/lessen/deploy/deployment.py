"""From a network to the file that is shipped: write every kind, prove each, time all, name the fastest that passed.

    folder/model.onnx  model.int8.onnx  model.xml  model.int8.xml  model.pt2
    folder/reference/teacher.onnx  teacher.xml  teacher.pt2

The teacher's own fp32 file is timed in the same run and the same runtime; a speed-up is against that. A file that
cannot be written, or that says something else than its network, is reported with the reason and never named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from lessen.core.data import Data, Inputs
from lessen.core.errors import ExportError, NetworkError
from lessen.core.machine import cores
from lessen.core.record import Record
from lessen.deploy.export import export_onnx, export_openvino, export_pt2
from lessen.deploy.kernels import Kernels, read_kernels
from lessen.deploy.records import records_of
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Program, Runtime, TorchProgram, installed
from lessen.deploy.timing import time_files
from lessen.deploy.verify import Verification, Verified, failed, verify
from lessen.measure.evaluate import Outputs, evaluate
from lessen.measure.intervals import Estimate
from lessen.measure.size import file_bytes

REFERENCE = "reference"


@dataclass(kw_only=True)
class DeployedFile:
    """One file, and what was found out about it.

    Args:
        name: Its path, relative to the folder.
        path: Where it is.
        runtime: What runs it.
        network: The network in PyTorch that it must agree with.
        int8: Whether it is meant to compute in whole numbers.
        reference: Whether it is the teacher's, there to be compared with.
        bytes: On the disk, with all it needs beside it; 0 if it could not be written.
        verified: Whether it may be shipped, and why.
        kernels: What really runs.
        latency: Milliseconds at each batch size.
        speedup: How many times faster than the reference's file in the same runtime, at each batch size.
        test: What it said to the test split.
    """

    name: str
    path: Path
    runtime: Runtime
    network: nn.Module
    int8: bool = False
    reference: bool = False
    bytes: int = 0
    verified: Verified = field(default_factory=lambda: failed("Not verified yet."))
    kernels: Kernels = field(default_factory=Kernels)
    latency: dict[int, Estimate] = field(default_factory=dict)
    speedup: dict[int, Estimate] = field(default_factory=dict)
    test: Outputs | None = None


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What `deploy` wrote and found.

    Args:
        files: Every file, the references last.
        fastest: The fastest of the network's files that passed verification, or None if none did.
        notes: What a person must know, a sentence each: files that failed, int8 files that are slower than fp32.
        records: Every figure, for `records.jsonl`.
    """

    files: tuple[DeployedFile, ...]
    fastest: DeployedFile | None
    notes: tuple[str, ...]
    records: list[Record]


def deploy(
    model: nn.Module | None,
    data: Data,
    folder: Path | str,
    *,
    int8: nn.Module | None = None,
    reference: nn.Module | None = None,
    runtimes: Sequence[Runtime] | None = None,
    batch_sizes: Sequence[int] = (1,),
    threads: int | None = None,
    rounds: int = 30,
    limits: Verification | None = None,
    step: int = 0,
    seed: int = 0,
) -> Deployed:
    """Write a network for every runtime, verify on the validation split, read the kernels, time, and name the fastest.

    Args:
        model: The network that computes in fp32; None where there is only the quantized one.
        data: Example inputs, validation examples to verify on, test examples to report on.
        folder: Where to write.
        int8: The quantized network, or None.
        reference: The teacher; its files are timed beside. None compares with the network's own fp32 file.
        runtimes: Which to write for; None for all that are installed.
        batch_sizes: At which to time; the fastest is named by the first.
        threads: How many threads each file gets; None for all cores.
        rounds: How many times each is timed.
        limits: How far a file may be from its network.
        step: Which step of the pipeline the network comes from, for the records.
        seed: Of the order of timing.

    Raises:
        NetworkError: there is neither a network nor a quantized one.
    """
    if model is None and int8 is None:
        raise NetworkError("There is nothing to deploy; give a network, a quantized network, or both.")
    runtimes, threads = runtimes or installed(), threads or cores()
    files = _planned(model, int8, reference, Path(folder), runtimes)
    inputs, limits = data.example(), limits or Verification()
    programs: dict[str, Program] = {}
    for file in files:
        try:
            _write(file, Path(folder), inputs)
            program = file.runtime.load(file.path, threads=threads)
            file.kernels = read_kernels(file.runtime, file.path, inputs)
            file.bytes = file_bytes(file.path)
        except ExportError as error:
            file.verified = failed(str(error))
            continue
        classes = data.classes is not None
        file.verified = verify(program, file.network, data.validation, classes=classes, int8=file.int8, limits=limits)
        file.test = evaluate(program, data.test)
        programs[file.name] = program
    _time(files, programs, data, batch_sizes=batch_sizes, rounds=rounds, seed=seed)
    shipped = [file for file in files if file.verified.passed and not file.reference]
    fastest = min(shipped, key=lambda file: file.latency[batch_sizes[0]].value, default=None)
    about = {"threads": threads, "repeats": rounds}
    return Deployed(
        files=tuple(files),
        fastest=fastest,
        notes=tuple(_notes(files, fastest, batch_sizes[0])),
        records=[record for file in files for record in records_of(file, files, fastest, data, about=about, step=step)],
    )


def _planned(
    model: nn.Module | None,
    int8: nn.Module | None,
    teacher: nn.Module | None,
    folder: Path,
    runtimes: Sequence[Runtime],
) -> list[DeployedFile]:
    planned = []
    for name, network, whole, reference in (
        ("model", model, False, False),
        ("model.int8", int8, True, False),
        (f"{REFERENCE}/teacher", teacher, False, True),
    ):
        for runtime in runtimes:
            # A PyTorch program emulates int8 in floating point: there is nothing to gain from one.
            if network is not None and not (whole and isinstance(runtime, TorchProgram)):
                file = f"{name}{runtime.suffix}"
                planned.append(
                    DeployedFile(
                        name=file, path=folder / file, runtime=runtime, network=network, int8=whole, reference=reference
                    )
                )
    return planned


def _write(file: DeployedFile, folder: Path, inputs: Inputs) -> None:
    match file.runtime:
        case OnnxRuntime():
            export_onnx(file.network, inputs, file.path)
        case OpenVino():
            source = file.path.with_suffix(".onnx")
            if not source.is_file():
                export_onnx(file.network, inputs, source)
            export_openvino(source, file.path)
        case TorchProgram():
            export_pt2(file.network, inputs, file.path)
        case _:
            raise ExportError(f"No way to write a file for {type(file.runtime).__name__} is known.")


def _time(
    files: Sequence[DeployedFile],
    programs: dict[str, Program],
    data: Data,
    *,
    batch_sizes: Sequence[int],
    rounds: int,
    seed: int,
) -> None:
    # One runtime after another: a pool of threads that is still awake would slow the next runtime's file.
    for runtime in dict.fromkeys(file.runtime.name for file in files):
        own = [file for file in files if file.runtime.name == runtime and file.name in programs]
        runs = {file.name: programs[file.name] for file in own}
        timings = time_files(runs, data.validation, batch_sizes=batch_sizes, rounds=rounds, seed=seed) if runs else {}
        for size, taken in timings.items():
            for file in own:
                file.latency[size] = taken.estimate(file.name)
                against = reference_of(file, own)
                if against is not None:
                    file.speedup[size] = Estimate(*taken.ratio(against.name, file.name))


def reference_of(file: DeployedFile, files: Sequence[DeployedFile]) -> DeployedFile | None:
    """The fp32 file of the same runtime that a file is compared with: the teacher's, or the network's own."""
    same = [other for other in files if other.runtime.name == file.runtime.name and not other.int8]
    return next((other for other in same if other.reference), same[0] if same else None)


def _notes(files: Sequence[DeployedFile], fastest: DeployedFile | None, size: int) -> list[str]:
    notes = [f"{file.name} is not shipped: {file.verified.reason}" for file in files if not file.verified.passed]
    for file in files:
        plain = next((one for one in files if one.runtime == file.runtime and not (one.int8 or one.reference)), None)
        if not file.int8 or plain is None or size not in file.latency or size not in plain.latency:
            continue
        if file.kernels.integer_share < 50:
            notes.append(
                f"{file.name} holds int8 weights, but {file.runtime.name} computes most of it in floating point."
            )
        ratio = plain.latency[size].value / file.latency[size].value
        if ratio < 1:
            notes.append(f"{file.name} is slower than {plain.name}: {ratio:.2f} times its speed at batch {size}.")
    return notes if fastest else [*notes, "No file passed verification."]
