"""Two processes and one, with the same batch over all of them, do the same."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from lessen.core.files import read_lines, read_tensors


def launch(program: ModuleType, folder: Path, processes: int) -> None:
    folder.mkdir()
    launcher = (
        ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)] if processes > 1 else []
    )
    command = [sys.executable, *launcher, str(program.__file__), "parts", str(folder / "weights.safetensors")]
    done = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def difference(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max(float((value.double() - two[name].double()).abs().max()) for name, value in one.items())


def steps(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "run" / "log.jsonl") if row["kind"] == "step"]


@pytest.mark.slow
def test_two_processes_equal_one(program: ModuleType, tmp_path: Path) -> None:
    for processes in (1, 2):
        launch(program, tmp_path / f"{processes}", processes)
    one, two = tmp_path / "1", tmp_path / "2"

    # Twenty steps with mutual edges and a learning bridge: weights, and losses of every edge at every step.
    assert difference(read_tensors(one / "weights.safetensors"), read_tensors(two / "weights.safetensors")) < 1e-5
    assert [len(steps(folder)) for folder in (one, two)] == [20, 20]
    for a, b in zip(steps(one), steps(two), strict=True):
        assert {name: edge["loss"] for name, edge in a["edges"].items()} == pytest.approx(
            {name: edge["loss"] for name, edge in b["edges"].items()}, abs=1e-5
        )

    # Whatever is decided is decided once: both ranks end with the same weights, after as many steps, in one folder.
    told = [json.loads((two / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert "run-0-0 already contains a run" in told[0].pop()
    assert all(steps < 72 for _, steps, _ in told[0])  # patience ended them
    assert sorted(path.name for path in two.glob("run-*")) == ["run-0-0", "run-1-0"]

    # Batch norm normalises each process's part by itself, unless it is synchronised.
    together, apart = (
        difference(*(read_tensors(folder / f"weights.{how}.safetensors") for folder in (one, two)))
        for how in (True, False)
    )
    assert together < 1e-4
    assert apart > 1e-3


def test_the_comparison_can_fail() -> None:
    assert difference({"a": torch.ones(2)}, {"a": torch.ones(2) + 1e-4}) > 1e-5


UNUSED = """
import torch
from torch import nn
from lessen.engine import run
from lessen.graph import Fit
from lessen.schemes import Supervised
from lessen.testing.tasks import clusters, perceptron

class Spare(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = perceptron(8, seed=1), nn.Linear(2, 2)
    def forward(self, x):
        return self.used(x)

run(Supervised(steps=3, fit=Fit(batch=16)).stages({"student": Spare()}), clusters(), device="cpu", progress=False)
print("trained")
"""


@pytest.mark.slow
def test_a_launcher_of_one_process_takes_a_network_with_weights_that_are_not_used(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(UNUSED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "program.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trained" in done.stdout
