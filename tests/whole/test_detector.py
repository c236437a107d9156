"""A detector: boxes and scores, pruned, taught by a loss of one's own, quantized, and all outputs in the files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen.core import ArrayExamples, Data
from lessen.core.errors import NetworkError, TapError
from lessen.core.seeds import seeded
from lessen.core.tree import parts
from lessen.deploy import Deploy, OnnxRuntime
from lessen.graph import Fit
from lessen.operations import PruneChannels, Quantize
from lessen.pipeline import Measuring
from lessen.schemes import at, offline
from lessen.surgery.taps import Tap, taps


@dataclass
class Found:
    boxes: Tensor
    scores: Tensor
    loss: Tensor | None = None


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1)

    def forward(self, images: Tensor) -> Found:
        features = self.body(self.stem(images).relu()).relu()
        return Found(self.boxes(features).flatten(2), self.scores(features).flatten(2))


class Boxes:
    """A loss on two outputs."""

    card = None

    def __call__(self, student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor]) -> Tensor:
        pairs = zip(student, teacher, strict=True)
        return torch.stack([(one - other).abs().flatten(1).mean(1) for one, other in pairs]).sum(0)


def images() -> Data:
    with seeded(0, "images"):
        splits = [ArrayExamples(torch.randn(count, 3, 6, 6)) for count in (32, 16, 16)]
    return Data(train=splits[0], validation=splits[1], test=splits[2], name="images")


def detector() -> Detector:
    with seeded(0, "detector"):
        return Detector().eval()


def job(**changes: Any) -> dict[str, Any]:
    where = taps(Tap(part="boxes"), Tap(part="scores"))
    steps = [
        PruneChannels(keep=0.5),
        offline(at(where, Boxes()), labels=0, epochs=1, fit=Fit(batch=16)),
        Quantize(),
    ]
    return {
        "teacher": detector(),
        "data": images(),
        "steps": steps,
        "output": "scores",
        "deploy": Deploy(runtimes=(OnnxRuntime(),), rounds=6, every_step=False),
        "measuring": Measuring(repeats=6, calibration=32),
        "progress": False,
    } | changes


def test_a_detector_goes_all_the_way(tmp_path: Path) -> None:
    made = lessen.compress(run=tmp_path / "run", **job())
    found = {record.file: record for record in made.records if record.figure == "verified"}
    assert {"model.onnx", "model.int8.onnx", "reference/teacher.onnx"} <= found.keys()
    assert all(record.value == 1 and "boxes" in record.detail["reason"] for record in found.values())
    inputs = images().test.fetch(torch.arange(5)).inputs
    assert isinstance(inputs, Tensor)
    for name in ("model.onnx", "model.int8.onnx"):
        session = onnxruntime.InferenceSession(str(made.run / name))
        assert [value.name for value in session.get_outputs()] == ["boxes", "scores"]
        gave = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
        if name == "model.int8.onnx":
            with torch.no_grad():
                wanted = parts(made.model(inputs))
            assert type(made.model(inputs)) is Found
            for one, other in zip(gave, wanted.values(), strict=True):
                assert np.abs(one - other.numpy()).mean() <= 0.02 * np.abs(other.numpy()).max()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"output": None}, r"boxes \(2, 4, 36\), scores \(2, 3, 36\).*output='boxes'"),
        ({"output": "score"}, "no output 'score': did you mean 'scores'"),
        ({"teacher": nn.Sequential(nn.Conv2d(3, 2, 1)), "output": "x"}, "one tensor, which has no name"),
    ],
)
def test_what_is_unclear_is_refused_at_once(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=said):
        lessen.compress(run=tmp_path / "run", **job(**changes))
    assert not (tmp_path / "run").exists()


def test_a_tap_with_a_part_that_does_not_exist(tmp_path: Path) -> None:
    steps = [offline(at(Tap(part="box"), Boxes()), labels=0, epochs=1)]
    with pytest.raises(TapError, match="@box: There is no output 'box': did you mean 'boxes'"):
        lessen.compress(run=tmp_path / "run", **job(steps=steps))
