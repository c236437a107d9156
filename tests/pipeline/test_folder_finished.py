"""A finished run keeps no training state, unless asked; all that reads it works as before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lessen
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import RunFolder
from lessen.report import write_report
from lessen.schemes import offline
from lessen.testing.tasks import perceptron


@pytest.mark.parametrize("keep", [False, True])
def test_what_stays_of_it(keep: bool, tmp_path: Path, job: Callable[..., dict[str, Any]]) -> None:
    arguments = job(steps=[offline(SoftTargets(), epochs=1), PruneWeights(keep=0.5), offline(SoftTargets(), epochs=1)])
    made = lessen.compress(run=tmp_path / "run", keep_state=keep, **arguments)
    folder = RunFolder(tmp_path / "run")
    kept = {str(path.relative_to(folder.checkpoints)) for path in folder.checkpoints.rglob("*.safetensors")}
    ends = {"step-0/given.safetensors", "step-0/network.safetensors", "step-3/network.safetensors"}
    assert kept >= ends
    assert (kept == ends) != keep
    again = lessen.resume(tmp_path / "run", **arguments)
    fresh = lessen.load(tmp_path / "run", perceptron(8, seed=5))
    packed = lessen.pack(tmp_path / "run", perceptron(8, seed=5))
    for network in (again.model, fresh, lessen.load(packed.path, perceptron(8, seed=6))):
        for name, value in made.model.state_dict().items():
            assert torch.equal(network.state_dict()[name], value)
    assert "Offline" in write_report(tmp_path / "run").read_text(encoding="utf-8")
