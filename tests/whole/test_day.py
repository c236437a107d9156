"""A researcher's day: a sweep that is killed, resumed and compared; trackers; a teacher from a file."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lessen
from lessen.data import load
from lessen.engine import run
from lessen.graph import Fit, TeacherFile
from lessen.knowledge import SoftTargets
from lessen.recipe import read_recipe, resume_sweep
from lessen.schemes import offline
from lessen.zoo import mlp

RECIPE = """
network: {build: "zoo:mlp", arguments: {hidden: [16]}}
student: {build: "zoo:mlp", arguments: {hidden: [8]}}
data: Digits
train:
  - Supervised: {epochs: 2, fit: {batch: 128}}
steps:
  - Offline:
      knowledge:
        - At: {objective: {SoftTargets: {temperature: 4.0}}, weight: 1.0}
      epochs: 2
      fit: {batch: 128}
deploy: {runtimes: []}
measuring: {repeats: 6, calibration: 32}
track: [TensorBoard]
"""
GRID = {"temperature": [1, 4], "knowledge.0.weight": [0.5, 2.0]}


def qualities(frame: Any) -> Any:
    """The table without what depends on the clock or the place."""
    words = ("latency", "memory", "time", "throughput", "speedup", "run")
    timed = [name for name in frame if any(word in name for word in words)]
    return frame.drop(columns=timed)


def test_a_day(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    (tmp_path / "day.yaml").write_text(RECIPE)
    words = [f"{name}={','.join(map(str, values))}" for name, values in GRID.items()]
    command = [sys.executable, "-m", "lessen", "sweep", str(tmp_path / "day.yaml"), "--run", str(tmp_path / "sweep")]
    command += [part for word in words for part in ("--set", word)] + ["--seeds", "3", "--workers", "2"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ)
    assert first.stderr is not None
    assert "1 of 12 runs" in first.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate()
    time.sleep(1.0)  # the workers end with their parent
    done = len(list((tmp_path / "sweep").glob("*/report.html")))
    assert done < 12
    made = resume_sweep(tmp_path / "sweep", progress=False)
    assert not made.failed
    assert "Best validation accuracy:" in str(made)
    assert "±" in str(made)
    found = lessen.compare(tmp_path / "sweep")
    assert len(found.rows) == 4
    assert all(len(row.runs) == 3 for row in found.rows)
    assert all(row.differences["accuracy"].pairs == 3 for row in found.rows[1:])
    assert found.draw().startswith("<svg")
    table = found.frame()
    assert isinstance(table, pandas.DataFrame)
    assert len(table) == 12
    # What was killed and resumed is what a run alone gives.
    alone = read_recipe(found.rows[0].runs[1].folder / "recipe.yaml")
    lessen.compress(**{**alone.arguments(), "track": ()}, run=tmp_path / "alone", progress=False)
    one = lessen.compare(tmp_path / "alone").frame()
    same = [name for name in qualities(one) if name in table and name != "seed"]
    assert "accuracy" in same
    assert list(table.loc[1, same]) == list(one.loc[0, same])
    assert len(lessen.frame(found.rows[0].runs[0].folder, "log")) > 10
    tensorboards = list((tmp_path / "sweep").glob("*/tensorboard/*/events*"))
    assert len(tensorboards) >= 12


def test_a_teacher_from_a_file_is_the_live_one(tmp_path: Path) -> None:
    """Both are computed one by one: how many are computed at once changes the rounding of matrix products."""
    data = load("digits")
    teacher = mlp(hidden=(16,)).eval()
    with torch.no_grad():
        images = data.train.fetch(torch.arange(len(data.train))).inputs
        logits = torch.cat([teacher(image[None]) for image in images])
    np.savez(tmp_path / "logits.npz", logits=logits.numpy())

    def learned(network: torch.nn.Module) -> list[torch.Tensor]:
        torch.manual_seed(0)
        student = mlp(hidden=(8,))
        scheme = offline(SoftTargets(temperature=4.0), epochs=1, fit=Fit(batch=128))
        run(scheme.stages({"teacher": network, "student": student}), data, progress=False)
        return list(student.state_dict().values())

    class OneByOne(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.teacher = teacher

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([self.teacher(image[None]) for image in images])

    for one, other in zip(learned(OneByOne()), learned(TeacherFile(tmp_path / "logits.npz")), strict=True):
        assert torch.equal(one, other)
