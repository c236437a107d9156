"""A run folder as a real run leaves it: the digits, pruned, distilled and quantized. No training is done here."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from lessen.cli import main
from lessen.core.record import Record
from lessen.measure import wilson

MACHINE = {"processor": "AMD EPYC 7B13", "instructions": ["avx2"], "cores": 2, "system": "Linux x86_64"}
VERSIONS = {"python": "3.11.7", "torch": "2.14.1", "onnxruntime": "1.32.0", "openvino": "2026.4.1"}

STEPS = [
    # subject, bytes, ms, right of 2000, parameters, multiply-adds
    ("teacher", 4_412_340, 1.92, 1978, 1_098_000, 38_400_000),
    ("1 PruneChannels", 1_164_000, 0.78, 1846, 286_000, 10_100_000),
    ("2 Offline", 1_164_000, 0.78, 1969, 286_000, 10_100_000),
    ("3 Quantize", 1_170_000, 1.35, 1966, 286_000, 10_100_000),
]
FILES = [
    # file, step, runtime, bytes, ms, right, verified, largest difference, integer share
    ("reference/teacher.onnx", 0, "onnxruntime", 4_420_000, 0.84, 1978, True, 2.4e-6, 0.0),
    ("model.onnx", 2, "onnxruntime", 1_171_000, 0.31, 1969, True, 1.9e-6, 0.0),
    ("model.int8.onnx", 3, "onnxruntime", 318_000, 0.19, 1965, True, 0.41, 98.7),
    ("model.xml", 2, "openvino", 1_190_000, 0.27, 1969, True, 2.1e-6, 0.0),
    ("model.int8.xml", 3, "openvino", 341_000, 0.33, 1961, True, 0.44, 97.9),
    ("model.pt2", 2, "pytorch", 1_240_000, 0.69, 1969, True, 0.0, 0.0),
]

RunMaker = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """Writes a run folder; see `write_run`."""
    return lambda name="digits-small", **options: write_run(tmp_path / name, **options)


def write_run(
    folder: Path,
    *,
    training: bool = True,
    files: bool = True,
    slow_int8: bool = False,
    refused: bool = False,
    regression: bool = False,
    hostile: str = "",
    stages: int = 2,
    ruined: bool = False,
) -> Path:
    """A run folder.

    Args:
        folder: Where to write it.
        training: Whether a step trained.
        files: Whether files were written.
        slow_int8: Whether the int8 file in ONNX Runtime is slower than the plain one.
        refused: Whether a file failed verification.
        regression: Whether the task has numbers instead of classes.
        hostile: Text put into every name that a person can choose.
        stages: How many stages of training there are.
        ruined: Whether half of what the network knew is lost.
    """
    folder.mkdir(parents=True)
    steps = [step for step in STEPS if training or step[0] != "2 Offline"]
    lines = [row for number, step in enumerate(steps) for row in network_records(number, step, hostile, regression)]
    if files:
        lines += file_records(slow_int8=slow_int8, refused=refused, regression=regression)
    if ruined:
        lines = [ruin(row) for row in lines]
    (folder / "records.jsonl").write_text("".join(json.dumps(row.to_json()) + "\n" for row in lines))
    (folder / "recipe.yaml").write_text(
        yaml.safe_dump(RECIPE | ({"note": hostile} if hostile else {}), sort_keys=False)
    )
    (folder / "plan.json").write_text(json.dumps([{"ChannelPlan": {"cuts": {}}}, {"QuantizationPlan": {"layers": {}}}]))
    (folder / "layers.json").write_text(json.dumps(layer_rows(hostile)))
    if training:
        graphs = [offline_graph(hostile), mutual_graph()][:stages]
        (folder / "graph.json").write_text(json.dumps(graphs))
        rows = [row for stage, graph in enumerate(graphs) for row in log_rows(stage, graph)]
        (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def ruin(row: Record) -> Record:
    """A record of a network that lost half of what it knew."""
    if row.step == 0 or row.figure not in {"accuracy", "accuracy_change"}:
        return row
    worse = 50.0 if row.figure == "accuracy" else 49.0
    value, low, high = (None if end is None else end - worse for end in (row.value, row.low, row.high))
    return replace(row, value=value, low=low, high=high)


def network_records(number: int, step: tuple[Any, ...], hostile: str, regression: bool) -> Iterator[Record]:
    subject, size, time, right, parameters, work = step
    speed = {"batch": 1, "threads": 2, "runtime": "pytorch", "repeats": 20}

    def say(figure: str, value: float, unit: str, low: float | None = None, high: float | None = None, **how: Any):
        return Record(subject=subject + hostile, figure=figure, value=value, unit=unit, low=low, high=high, step=number,
                      settings=how, machine=MACHINE, versions=VERSIONS, at="2026-11-24T10:00:00+00:00")  # fmt: skip

    yield say("bytes", size, "B", format="safetensors")
    yield say("parameters", parameters, "1")
    yield say("nonzero_parameters", parameters - 120, "1")
    yield say("multiply_adds", work, "1", batch=1)
    yield say("peak_memory", size + 220_000, "B", batch=1)
    yield say("latency", time, "ms", 0.98 * time, 1.03 * time, **speed)
    yield say("latency", 21 * time, "ms", 20.5 * time, 21.6 * time, **speed | {"batch": 32})
    yield say("throughput", 1000 / time, "examples/s", 970 / time, 1020 / time, **speed)
    yield from quality(say, right, regression)
    if number:
        yield say("speedup", 1.92 / time, "1", 1.86 / time, 1.99 / time, **speed, reference="teacher")


def quality(say: Callable[..., Record], right: int, regression: bool) -> Iterator[Record]:
    split = {"split": "test", "examples": 2000, "data": "digits"}
    if regression:
        error = (2000 - right) / 400
        yield say("mean_squared_error", error, "1", 0.9 * error, 1.1 * error, **split)
        return
    share = wilson(right, 2000)
    yield say("accuracy", 100 * share.value, "%", 100 * share.low, 100 * share.high, **split)
    yield say(
        "nll", 0.06 + (1978 - right) / 500, "nat", 0.05 + (1978 - right) / 510, 0.08 + (1978 - right) / 490, **split
    )
    yield say("calibration_error", 1.1, "%", 0.6, 1.7, **split, bins=15)
    if right != 1978:
        gap = (right - 1978) / 20
        same = wilson(right + 12, 2000)
        yield say("agreement", 100 * same.value, "%", 100 * same.low, 100 * same.high, **split)
        yield say("accuracy_change", gap, "points", gap - 0.5, gap + 0.5, **split, reference="teacher")
        yield say("kl_to_teacher", 0.03 - gap / 40, "nat", 0.025 - gap / 40, 0.035 - gap / 40, **split)


def file_records(*, slow_int8: bool, refused: bool, regression: bool) -> list[Record]:
    rows: list[Record] = []
    times = {file: (0.36 if slow_int8 and file == "model.int8.onnx" else time) for file, _, _, _, time, *_ in FILES}
    allowed = {file for file in times if not (refused and file == "model.int8.onnx")}
    fastest = min(allowed - {"reference/teacher.onnx"}, key=times.__getitem__)
    for file, step, runtime, size, _, right, _, largest, share in FILES:

        def say(figure: str, value: float, unit: str, low: float | None = None, high: float | None = None, *,
                file: str = file, step: int = step, detail: dict[str, Any] | None = None, **settings: Any):  # fmt: skip
            return Record(subject=file, file=file, step=step, figure=figure, value=value, unit=unit, low=low, high=high,
                          settings=settings, detail=detail or {}, machine=MACHINE, versions=VERSIONS,
                          at="2026-11-24T10:02:00+00:00")  # fmt: skip

        passed, time = file in allowed, times[file]
        why = "largest difference 1.2e-06 of the largest output; allowed 1.0e-03" if share == 0 else (
            "agreement 99.85 %; allowed 98.00 %, accuracy 0.05 points lower; allowed 1.00"
        )  # fmt: skip
        speed = {"batch": 1, "threads": 2, "runtime": runtime, "repeats": 30}
        rows += [
            say("bytes", size, "B"),
            say(
                "verified",
                float(passed),
                "1",
                detail={"reason": why if passed else "agreement 71.20 %; allowed 98.00 %"},
            ),
            say("max_difference", largest, "1"),
            say("mean_difference", largest / 8, "1"),
            say("integer_share", share, "%", detail={"kernels": {"QLinearConv": 9, "Conv": 1}}),
        ]
        if not regression:
            rows.append(say("agreement_with_pytorch", 100.0 if share == 0 else 99.85, "%"))
        if passed:
            rows += [
                say("latency", time, "ms", 0.97 * time, 1.04 * time, **speed),
                say("speedup", 0.84 / time, "1", 0.80 / time, 0.87 / time, **speed, reference="reference/teacher.onnx"),
                *quality(say, right, regression),
            ]
        if file == fastest:
            rows.append(say("recommended", 1.0, "1", detail={"because": "fastest", "equally_fast": []}))
    return rows


def offline_graph(hostile: str = "") -> dict[str, Any]:
    def edge(source: str, objective: str, weight: float, tap: str = "", **more: Any) -> dict[str, Any]:
        name = f"{source}->student" + (f":{tap}>{tap}" if tap else "")
        ends = {"source": source, "target": "student", "source_tap": tap, "target_tap": tap}
        plain = {"schedule": None, "gate": "Through", "bridge": None}
        return {"name": name + hostile, **ends, "objective": objective, "weight": weight, **plain, **more}

    nodes = [("labels", "Labels", False), ("teacher", "Network", False), ("student", "Network", True)]
    return {
        "stage": 0,
        "name": "offline" + hostile,
        "pipeline_step": 2,
        "nodes": [{"name": name, "kind": kind, "learns": learns} for name, kind, learns in nodes],
        "edges": [
            edge("labels", "CrossEntropy(smoothing=0.0)", 0.1),
            edge("teacher", "SoftTargets(temperature=4.0)", 0.9, schedule="Warmup(steps=50)"),
            edge("teacher", "AttentionTransfer(power=2.0)", 50.0, tap="layer3"),
            edge("teacher", "Hint()", 1.0, tap="layer2", bridge="Channels"),
        ],
    }


def mutual_graph() -> dict[str, Any]:
    peers = ("student", "peer", "third")
    pairs = [("labels", name, "CrossEntropy()") for name in peers]
    pairs += [(a, b, "SoftTargets(temperature=2.0)") for a in peers for b in peers if a != b]
    return {
        "stage": 1,
        "name": "mutual",
        "pipeline_step": 2,
        "nodes": [{"name": "labels", "kind": "Labels", "learns": False}]
        + [{"name": name, "kind": "Network", "learns": True} for name in peers],
        "edges": [
            {"name": f"{source}->{target}", "source": source, "target": target, "objective": objective, "weight": 1.0,
             "source_tap": "", "target_tap": "", "schedule": None, "gate": "Correct", "bridge": None}
            for source, target, objective in pairs
        ],
    }  # fmt: skip


def log_rows(stage: int, graph: dict[str, Any], steps: int = 700, epochs: int = 10) -> Iterator[dict[str, Any]]:
    source = np.random.default_rng(stage)
    learners = [node["name"] for node in graph["nodes"] if node["learns"]]
    common = {"stage": stage, "name": graph["name"], "pipeline_step": 2}
    best = 0.0
    for step in range(steps):
        edges = {
            edge["name"]: {"loss": float((0.05 + (1 + place) * math.exp(-step / 150)) * source.lognormal(0, 0.15)),
                           "weight": edge["weight"], "gate": 1.0}
            for place, edge in enumerate(graph["edges"])
        }  # fmt: skip
        total = sum(edge["loss"] * edge["weight"] for edge in edges.values())
        epoch = step * epochs // steps
        yield {"kind": "step", **common, "epoch": epoch, "step": step, "loss": dict.fromkeys(learners, total),
               "edges": edges, "rate": dict.fromkeys(learners, 0.05), "seconds": 0.03}  # fmt: skip
        if (step + 1) % (steps // epochs) == 0:
            score = 98.6 - 8 * math.exp(-step / 120) + float(source.normal(0, 0.25))
            figures = {name: {"accuracy": score - 0.6 * place, "nll": 0.2} for place, name in enumerate(learners)}
            yield {
                "kind": "validation",
                **common,
                "epoch": epoch,
                "step": step,
                "figures": figures,
                "best": score > best,
            }
            best = max(best, score)


def layer_rows(hostile: str) -> list[dict[str, Any]]:
    units = [(block, unit) for block in (1, 2, 3) for unit in (0, 1)]
    blocks = [f"layer{block}.{unit}.{part}" for block, unit in units for part in ("conv1", "conv2")]
    names = ["stem.0", *blocks, "head"]
    pruned = [{"module": name + hostile, "edit": "channels", "before": "64 x 64 x 3 x 3", "after": "32 x 32 x 3 x 3"}
              for name in names]  # fmt: skip
    quantized = [
        {"module": name, "edit": "int8, per channel", "before": "32 bits", "after": "7 bits"} for name in names
    ]
    return [
        {"step": 1, "operation": "PruneChannels", "rows": pruned},
        {"step": 3, "operation": "Quantize", "rows": quantized},
    ]


RECIPE = {
    "network": {"factory": "lessen.zoo:residual", "width": 32, "depth": 3},
    "data": {"name": "digits"},
    "steps": [
        {"PruneChannels": {"keep": 0.5, "score": {"Magnitude": {}}}},
        {"Offline": {"epochs": 10}},
        {"Quantize": {"bits": 8}},
    ],
    "targets": {"accuracy_drop": 1.0, "speedup": 3.0},
    "seed": 0,
}  # fmt: skip


@pytest.fixture
def lessen_command(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """Run `lessen` with these words: exit code, standard output and standard error."""

    def call(*words: str) -> SimpleNamespace:
        with pytest.raises(SystemExit) as left:
            main(words)
        captured = capsys.readouterr()
        return SimpleNamespace(code=int(left.value.code or 0), out=captured.out, err=captured.err)

    return call
