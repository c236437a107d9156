"""Every task goes the whole way: pruned, taught, quantized, judged by its own figure, in network and file."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lessen
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.deploy import Deploy, OnnxRuntime
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneChannels, Quantize
from lessen.pipeline import Measuring, Targets
from lessen.schemes import offline

N = 96
QUICK: dict[str, Any] = {
    "progress": False,
    "deploy": Deploy(runtimes=(OnnxRuntime(),), rounds=6),
    "measuring": Measuring(repeats=6, calibration=32),
}


def perceptron(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, outputs))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(8, 3, 1))  # fmt: skip


def rows(labels: Tensor | None) -> Any:
    x = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
    return x if labels is None else (x, labels)


X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
MAPS = torch.randn(N, 2, 6, 6, generator=torch.Generator().manual_seed(2))
WAYS: dict[str, tuple[nn.Module, Any, str, str]] = {
    "several": (perceptron(4), (X, (X[:, :4] > 0).float()), "multi_label", "mean_average_precision"),
    "one logit": (perceptron(1), (X, (X[:, 0] > 0).long()), "binary", "accuracy"),
    "one-hot": (perceptron(4), (X, F.one_hot(X[:, :4].argmax(1), 4).float()), "single_label", "accuracy"),
    "maps": (convolutions(), (MAPS, MAPS.sum(1).round().clamp(0, 2).long()), "dense", "mean_iou"),
    "numbers": (perceptron(1), (X, X.sum(1)), "regression", "rmse"),
    "nothing": (perceptron(4), X, "none", "cosine_to_teacher"),
}


@pytest.mark.parametrize("name", WAYS)
def test_a_task_goes_the_whole_way(name: str, tmp_path: Path) -> None:
    network, data, task, headline = WAYS[name]
    taught = offline(SoftTargets(), labels=float(task != "none"), epochs=1, fit=Fit(batch=32))
    done = lessen.compress(
        network,
        data,
        steps=[PruneChannels(keep=0.6), taught, Quantize()],
        run=tmp_path / "run",
        targets=Targets(quality_drop=1000.0),
        **QUICK,
    )
    judged = [row for row in done.records if row.figure == headline]
    assert {row.file for row in judged} >= {None, "model.onnx", "model.int8.onnx"}
    assert all(row.detail.get("headline") for row in judged)
    assert all(row.settings["task"] == task for row in judged if row.file is None)
    if task != "none":
        assert {row.step for row in judged if row.file is None} == {0, 1, 2, 3}
        changes = [row for row in done.records if row.figure == f"{headline}_change" and row.file is None]
        assert [row.step for row in changes] == [1, 2, 3]
    (target,) = [row for row in done.records if row.figure == "target_quality_drop"]
    assert target.value == 1
    verified = {row.file: row.value for row in done.records if row.figure == "verified"}
    assert set(verified.values()) == {1.0}
    # The figure of the file, computed here from what plain onnxruntime says.
    x = data[0] if isinstance(data, tuple) else data
    session = onnxruntime.InferenceSession(str(tmp_path / "run" / "model.onnx"), providers=["CPUExecutionProvider"])
    said = torch.from_numpy(np.asarray(session.run(None, {session.get_inputs()[0].name: x[:5].numpy()})[0]))
    with torch.no_grad():
        assert said.shape == network(x[:5]).shape
    assert (tmp_path / "run" / "report.html").stat().st_size > 0


def test_nothing_is_accepted_that_teaches_nothing(tmp_path: Path) -> None:
    """A softmax over one output; rows that sum to 2; a target that the data cannot judge; no folder is left."""
    run = tmp_path / "run"
    with pytest.raises((DataError, ShapeError), match="task='binary'"):
        lessen.compress(
            perceptron(1), (X, (X[:, 0] > 0).long()), steps=[offline(epochs=1)], task="single_label", run=run
        )
    twos = F.one_hot(X[:, :4].argmax(1), 4).float() + F.one_hot(X[:, :4].argmin(1), 4).float()
    with pytest.raises(DataError, match="task='multi_label'"):
        lessen.compress(perceptron(4), (X, twos), steps=[offline(epochs=1)], task="single_label", run=run)
    with pytest.raises(SettingError, match="accuracy_drop cannot be judged"):
        lessen.compress(
            perceptron(1), (X, X.sum(1)), steps=[offline(epochs=1)], targets=Targets(accuracy_drop=1), run=run
        )
    with pytest.raises(SettingError, match="did you mean 'regression'"):
        lessen.compress(perceptron(1), (X, X.sum(1)), steps=[offline(epochs=1)], task="regresion", run=run)
    assert not run.exists()


def test_the_guess_is_printed_with_its_reason(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lessen.compress(perceptron(1), (X, X.sum(1)), steps=[], run=tmp_path / "run", **QUICK | {"progress": True})
    assert "task: regression (labels are floating-point numbers of shape (N,)" in capsys.readouterr().err


def test_own_losses_and_an_own_metric(tmp_path: Path) -> None:
    def angle(student: Tensor, teacher: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(student, teacher, dim=1)

    def worst(outputs: Tensor, labels: Tensor) -> float:
        return float((outputs.argmax(1) - labels).abs().max())

    own = offline(angle, labels_objective=nn.CrossEntropyLoss(label_smoothing=0.1), epochs=1, fit=Fit(batch=32))
    data = (X, X[:, :4].argmax(1))
    done = lessen.compress(
        perceptron(4), data, steps=[PruneChannels(keep=0.6), own], metric=(worst, "min"), run=tmp_path / "run", **QUICK
    )
    assert next(row.figure for row in done.records if row.detail.get("headline")) == "worst"
    again = lessen.resume(
        tmp_path / "run", teacher=perceptron(4), data=data, steps=[PruneChannels(keep=0.6), own],
        metric=(worst, "min"), **QUICK
    )  # fmt: skip
    assert again.file == done.file


def test_a_loss_that_averages_over_the_batch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lessen.core.errors.GraphError, match="reduction='none'"):
        lessen.compress(
            perceptron(4), (X, X[:, :4].argmax(1)), steps=[offline(lambda s, t: (s - t).abs().mean(), epochs=1)],
            run=tmp_path / "run", **QUICK,
        )  # fmt: skip
