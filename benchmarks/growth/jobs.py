"""What is measured: each job makes ready what it needs, and gives back the work that is timed.

    python benchmarks/growth/jobs.py NETWORK JOB      prints one line of JSON

CPU seconds are those of the whole process, over all threads. The peak is that of the resident memory while the work
runs; `grown` is the part of it that was not there before. The work is done once on the smallest network first, so that
imports and what is only done once in a process are not counted.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.metadata
import io
import json
import os
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from networks import SUBJECTS, Subject, residual_name
from torch import nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.operations import PruneChannels, Quantize

Work = Callable[[], Any]
MIB = 2**20


def context(subject: Subject) -> Context:
    """32 calibration examples with labels."""
    batches = [
        Batch(subject.inputs(16, seed), torch.arange(16) + 16 * seed, torch.arange(16) % subject.classes)
        for seed in range(2)
    ]
    return Context(
        inputs=subject.inputs(), calibration=batches, loss=lambda a, b: F.cross_entropy(a, b, reduction="none")
    )


def explain(subject: Subject, folder: Path) -> Work:
    """The groups of channels and what one index of each costs: what `lessen explain` computes."""
    from lessen.surgery.coupling import analyse, multiply_adds, parameter_count

    network, inputs = subject.build(), subject.inputs()

    def work() -> None:
        coupling = analyse(network, inputs)
        for name, group in coupling.groups.items():
            parameter_count(coupling, network, {name: coupling.sizes[name] - 1})
            multiply_adds(coupling, {name: coupling.sizes[name] - 1})
            assert group.members

    return work


def plan(subject: Subject, folder: Path) -> Work:
    """`PruneChannels(keep=0.5).plan`, its proof included."""
    network, given = subject.build(), context(subject)
    return lambda: PruneChannels(keep=0.5).plan(network, given)


def proof(subject: Subject, folder: Path) -> Work:
    """One proof of that plan."""
    from lessen.operations.prune_channels.verify import trial, verify

    network = subject.build()
    made, place = PruneChannels(keep=0.5).plan(network, context(subject)), trial(network, subject.inputs())

    def work() -> None:
        wrong = verify(place, made)
        assert wrong is None, wrong

    return work


def apply(subject: Subject, folder: Path) -> Work:
    """`apply` of that plan."""
    network = subject.build()
    made = PruneChannels(keep=0.5).plan(network, context(subject))
    return lambda: made.apply(network)


def quantize(subject: Subject, folder: Path) -> Work:
    """`Quantize().plan` on 32 examples."""
    network, given = subject.build(), context(subject)
    return lambda: Quantize(weight_bits=8).plan(network, given)


def quantize_biases(subject: Subject, folder: Path) -> Work:
    """The same with corrected biases."""
    network, given = subject.build(), context(subject)
    return lambda: Quantize(weight_bits=8, correct_biases=True).plan(network, given)


def export(subject: Subject, folder: Path) -> Work:
    """`export_onnx` in fp32."""
    from lessen.deploy.export import export_onnx

    network = subject.build()
    return lambda: export_onnx(network, subject.inputs(), folder / "model.onnx")


def export_int8(subject: Subject, folder: Path) -> Work:
    """`export_onnx` of the quantized network."""
    from lessen.deploy.export import export_onnx

    network = subject.build()
    small = Quantize(weight_bits=8).plan(network, context(subject)).apply(network)
    return lambda: export_onnx(small, subject.inputs(), folder / "model.int8.onnx")


def compress(subject: Subject, folder: Path) -> Work:
    """`lessen.compress` from preflight to report, without training: channels, then int8, every file."""
    import lessen
    from lessen.deploy import Deploy
    from lessen.pipeline import Measuring

    network, data = subject.build(), subject.data()
    steps = [PruneChannels(keep=0.5), Quantize(weight_bits=8)]
    return lambda: lessen.compress(
        network,
        data,
        steps=steps,
        run=folder / "run",
        deploy=Deploy(rounds=6),
        measuring=Measuring(repeats=6, calibration=32),
        progress=False,
    )


def torch_pruning(subject: Subject, folder: Path) -> Work:
    """Torch-Pruning: its graph, the size of the weights as importance, one step to half the channels. No proof."""
    import torch_pruning as tp

    network, inputs = subject.build(), subject.inputs()
    heads = [module for module in network.modules() if isinstance(module, nn.Linear) and module.out_features == 10]

    def work() -> None:
        pruner = tp.pruner.MagnitudePruner(
            network, inputs, importance=tp.importance.MagnitudeImportance(), pruning_ratio=0.5, ignored_layers=heads
        )
        pruner.step()
        with torch.no_grad():
            network(inputs)

    return work


def nncf(subject: Subject, folder: Path) -> Work:
    """NNCF: `quantize` of an OpenVINO model on 32 examples, with its fast correction of biases."""
    return _nncf(subject, folder, fast=True)


def nncf_biases(subject: Subject, folder: Path) -> Work:
    """NNCF: the same with its exact correction of biases."""
    return _nncf(subject, folder, fast=False)


def _nncf(subject: Subject, folder: Path, *, fast: bool) -> Work:
    import nncf as peer
    import openvino

    from lessen.deploy.export import export_onnx

    batches = [batch.inputs for batch in context(subject).calibration]
    export_onnx(subject.build(), batches[0], folder / "model.onnx")
    model = openvino.convert_model(str(folder / "model.onnx"))
    examples = peer.Dataset([batch.numpy() for batch in batches])
    return lambda: peer.quantize(model, examples, fast_bias_correction=fast, subset_size=len(batches))


JOBS: dict[str, Callable[[Subject, Path], Work]] = {
    job.__name__: job for job in (explain, plan, proof, apply, quantize, quantize_biases, export, export_int8, compress)
}
PEERS: dict[str, tuple[str, Callable[[Subject, Path], Work]]] = {
    "torch_pruning": ("torch-pruning", torch_pruning),
    "nncf": ("nncf", nncf),
    "nncf_biases": ("nncf", nncf_biases),
}
"""Peers, by job: the package that must be on PYTHONPATH, and the work."""


def measure(name: str, job: str) -> dict[str, Any]:
    """Do one job on one network, in this process."""
    make = JOBS[job] if job in JOBS else PEERS[job][1]
    found: dict[str, Any] = {}
    if job in PEERS:
        found["peer"] = f"{PEERS[job][0]} {importlib.metadata.version(PEERS[job][0])}"
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as folder:
        make(SUBJECTS[residual_name(8)], Path(first))()
        work = make(SUBJECTS[name], Path(folder))
        gc.collect()
        before = _memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        found |= {"cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}
        peak = _memory("VmHWM")
        return found | {"peak_mib": peak / MIB, "grown_mib": (peak - before) / MIB}


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()):
        result = measure(sys.argv[1], sys.argv[2])
    print(json.dumps(result))
