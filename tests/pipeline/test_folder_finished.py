"""A finished run keeps no training state, unless asked; all that reads it works as before."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import lessen
from lessen.core.errors import RunError
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


STEPS = [offline(SoftTargets(), epochs=1), PruneWeights(keep=0.5), offline(SoftTargets(), epochs=1)]


@pytest.mark.parametrize("removed", [0, 1])
def test_a_kill_while_it_is_removed(
    removed: int, tmp_path: Path, job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, folder = job(steps=STEPS), RunFolder(tmp_path / "run")

    def killed(folder: RunFolder, last: int) -> None:
        for path in [path for path in folder.forgettable(last) if path.is_file()][:removed]:
            path.unlink()
        raise RunError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "forget_training", killed)
        with pytest.raises(RunError, match="killed"):
            lessen.compress(run=folder.path, **arguments)
    assert folder.open().finished
    assert folder.forgettable(3)
    lessen.resume(folder.path, **arguments)
    assert folder.forgettable(3) == []
    assert not folder.forgetting.exists()


def test_what_is_kept_stays_when_a_later_resume_is_not_told_so(
    tmp_path: Path, job: Callable[..., dict[str, Any]]
) -> None:
    arguments, folder = job(steps=STEPS), RunFolder(tmp_path / "run")
    lessen.compress(run=folder.path, keep_state=True, **arguments)
    kept = folder.forgettable(3)
    assert kept
    lessen.resume(folder.path, **arguments)
    assert folder.forgettable(3) == kept


def test_the_attempt_that_finishes_decides(
    tmp_path: Path, job: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that would have kept nothing is killed just before it is finished, and resumed by one that keeps all."""
    arguments, folder, write = job(steps=STEPS), RunFolder(tmp_path / "run"), RunFolder.write_state

    def killed(folder: RunFolder, state: Any) -> None:
        if state.finished:
            raise RunError("killed")
        write(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_state", killed)
        with pytest.raises(RunError, match="killed"):
            lessen.compress(run=folder.path, **arguments)
    assert folder.forgetting.exists()
    lessen.resume(folder.path, keep_state=True, **arguments)
    assert folder.open().finished
    kept = folder.forgettable(3)
    assert kept
    lessen.resume(folder.path, **arguments)
    assert folder.forgettable(3) == kept
