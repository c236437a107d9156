"""One small run through the real command line: run, load, report, measure, resume, and never over what is there."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from lessen.recipe import read_recipe, shipped

SMALL: dict[str, Any] = {
    "network": {"build": "zoo:residual", "arguments": {"width": 8, "depth": 8}},
    "data": "Digits",
    "train": [{"Supervised": {"epochs": 3, "fit": {"batch": 64}}}],
    "steps": [
        {"PruneChannels": {"keep": 0.5}},
        {"Offline": {"knowledge": ["SoftTargets"], "epochs": 2, "fit": {"batch": 64}}},
        {"Quantize": {"bits": 8}},
    ],
    "targets": {"accuracy_drop": 100.0, "size": 10},
    "measuring": {"repeats": 6, "calibration": 64},
    "deploy": {"runtimes": ["OnnxRuntime"], "rounds": 6, "threads": 1},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL, sort_keys=False))
    return folder


def command(place: Path, *words: str) -> Any:
    return subprocess.run(
        [Path(sys.executable).with_name("lessen"), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def ran(place: Path) -> Any:
    return command(place, "run", "small.yaml", "--quiet")


def test_it_ends_with_a_table_the_report_and_files(ran: Any, place: Path) -> None:
    assert ran.returncode == 0, ran.stderr
    for part in ("teacher", "1 PruneChannels", "2 Offline", "3 Quantize", "model.onnx", "model.int8.onnx"):
        assert part in ran.stdout
    assert "Report: runs/small/report.html" in ran.stdout
    assert "runs/small/model.int8.onnx" in ran.stdout.partition("Files:")[2]
    assert "Target met: accuracy drop, required 100" in ran.stdout
    assert "A target was missed: size:" in " ".join(ran.stdout.split())
    run = place / "runs" / "small"
    for name in (
        "recipe.yaml",
        "plan.json",
        "weights.safetensors",
        "model.onnx",
        "records.jsonl",
        "log.jsonl",
        "graph.json",
    ):
        assert (run / name).stat().st_size > 0
    assert (run / "model.int8.onnx").stat().st_size < (run / "model.onnx").stat().st_size


def test_the_recipe_in_the_run_is_the_recipe_that_was_asked(ran: Any, place: Path) -> None:
    assert read_recipe(place / "runs" / "small" / "recipe.yaml") == read_recipe(place / "small.yaml")


def test_the_network_comes_back(ran: Any, place: Path) -> None:
    done = command(place, "load", "runs/small", "--out", "small.pt2")
    assert done.returncode == 0, done.stderr
    assert "ResidualNetwork" in done.stdout
    assert "parameters" in done.stdout
    assert (place / "small.pt2").stat().st_size > 0
    again = command(place, "load", "runs/small", "--out", "small.pt2")
    assert again.returncode == 2
    assert "small.pt2 already exists" in again.stderr


def test_the_file_is_measured_as_it_was(ran: Any, place: Path) -> None:
    done = command(place, "measure", "runs/small/model.onnx", "--data", "digits", "--threads", "1")
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in (place / "runs/small/records.jsonl").read_text().splitlines()]
    told = next(row["value"] for row in rows if row["figure"] == "accuracy" and row["file"] == "model.onnx")
    shown = next(line for line in done.stdout.splitlines() if line.strip().startswith("accuracy"))
    assert float(shown.split()[1]) == pytest.approx(told, abs=0.01)


def test_the_report_can_be_written_again(ran: Any, place: Path) -> None:
    page = place / "runs" / "small" / "report.html"
    page.unlink()
    done = command(place, "report", "runs/small")
    assert done.returncode == 0, done.stderr
    assert "</html>" in page.read_text()


def test_it_is_never_written_over(ran: Any, place: Path) -> None:
    kept = {path: path.read_bytes() for path in (place / "runs").rglob("*") if path.is_file()}
    done = command(place, "run", "small.yaml", "--quiet")
    assert done.returncode == 2
    assert "lessen resume runs/small" in done.stderr
    assert {path: path.read_bytes() for path in (place / "runs").rglob("*") if path.is_file()} == kept


def test_a_complete_run_is_said_to_be_complete_and_left_alone(ran: Any, place: Path) -> None:
    kept = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (place / "runs").rglob("*") if path.is_file()
    }
    done = command(place, "resume", "runs/small", "--quiet")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runs/small is complete; there was nothing to do.")
    assert "Report: runs/small/report.html" in done.stdout
    after = {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in (place / "runs").rglob("*") if path.is_file()
    }
    assert after == kept


def test_the_demo_has_the_steps_it_is_named_for() -> None:
    kinds = [type(step).__name__ for step in read_recipe(shipped("digits")).steps]
    assert kinds == ["PruneChannels", "Offline", "Quantize"]


@pytest.mark.slow
def test_a_killed_run_is_resumed_to_the_same_weights(ran: Any, place: Path) -> None:
    words = [str(Path(sys.executable).with_name("lessen")), "run", "small.yaml", "--quiet", "--run", "runs/killed"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    first = place / "runs" / "killed" / "checkpoints" / "step-1" / "step.json"
    deadline = time.monotonic() + 120
    while not first.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() != 0, "it came to its end before it could be killed"
    assert not (place / "runs" / "killed" / "weights.safetensors").exists()
    done = command(place, "resume", "runs/killed", "--quiet")
    assert done.returncode == 0, done.stderr
    whole, resumed = (load_file(place / "runs" / name / "weights.safetensors") for name in ("small", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
