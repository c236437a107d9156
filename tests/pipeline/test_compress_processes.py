"""`lessen run` by two processes of torchrun leaves one folder, equal to that of one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lessen.core.files import read_json, read_lines, read_tensors
from lessen.pipeline import compress
from lessen.recipe import read_recipe
from lessen.recipe.recipe import as_data

RECIPE = """
network: {build: "zoo:mlp", arguments: {hidden: [12], classes: 10}}
data: Digits
train: [{Supervised: {epochs: 1, fit: {batch: 64}}}]
steps:
  - PruneWeights: {keep: 0.5}
  - Offline: {knowledge: [{At: {objective: {SoftTargets: {temperature: 4.0}}}}], epochs: 1, fit: {batch: 64}}
deploy: {runtimes: []}
"""


def launch(recipe: Path, run: Path) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    command = [*torchrun, "lessen.cli", "run", str(recipe), "--run", str(run), "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
def test_two_processes_leave_one_run_equal_to_that_of_one(tmp_path: Path) -> None:
    path, one, two = tmp_path / "recipe.yaml", tmp_path / "one", tmp_path / "two"
    path.write_text(RECIPE)
    recipe = read_recipe(path)
    compress(**recipe.arguments(), run=one, asked=as_data(recipe), progress=False)
    done = launch(path, two)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("Report: ") == 1

    files = [sorted(str(file.relative_to(run)) for file in run.rglob("*")) for run in (one, two)]
    assert files[0] == files[1]
    for name in ("weights.safetensors", "checkpoints/step-0/network.safetensors"):
        a, b = read_tensors(one / name), read_tensors(two / name)
        assert max(float((a[key] - b[key]).abs().max()) for key in a) < 1e-5
    assert (one / "recipe.yaml").read_text() == (two / "recipe.yaml").read_text()
    assert read_json(one / "plan.json") == read_json(two / "plan.json")
    steps = [[(row["step"], row["kind"]) for row in read_lines(run / "log.jsonl")] for run in (one, two)]
    assert steps[0] == steps[1]
    figures = [{(row["subject"], row["figure"]) for row in read_lines(run / "records.jsonl")} for run in (one, two)]
    assert figures[0] == figures[1]
