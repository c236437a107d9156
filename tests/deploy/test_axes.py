"""Files take any batch, and any length and size of images that the network takes; what stays fixed is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Context
from lessen.core.data import ArrayExamples, Data
from lessen.deploy import Deploy, OnnxRuntime, deploy
from lessen.operations import QuantizeDynamic

BATCHES = (1, 5)


class Text(nn.Module):
    """Tokens (N, L) to logits (N, 5), attention over all of them; pads (0) are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 32)
        self.query, self.key, self.value = (nn.Linear(32, 32) for _ in range(3))
        self.head = nn.Linear(32, 5)

    def forward(self, input_ids: Tensor) -> Tensor:
        x_NLC = self.embed(input_ids)
        pad = (input_ids == 0)[:, None, :]
        weight = (self.query(x_NLC) @ self.key(x_NLC).transpose(1, 2) / 32**0.5).masked_fill(pad, -1e4).softmax(-1)
        logits: Tensor = self.head((weight @ self.value(x_NLC)).amax(1))
        return logits


class Picture(nn.Module):
    """Images (N, 3, H, W) to maps (N, 2, H, W); height and width may be any even numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ConvTranspose2d(8, 2, 2, stride=2)

    def forward(self, image: Tensor) -> Tensor:
        maps: Tensor = self.up(F.relu(self.down(image)))
        return maps


class Fixed(nn.Module):
    """Images of 12 x 12 pixels only: they are flattened for a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 144, 5)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(F.relu(self.first(image)).flatten(1))
        return logits


def tokens(count: int, length: int) -> dict[str, Tensor]:
    return {"input_ids": torch.randint(1, 50, (count, length))}


def data(inputs: Any) -> Data:
    splits = ArrayExamples(inputs=inputs)
    return Data(name="some", train=splits, validation=splits, test=splits)


def written(network: nn.Module, inputs: Any, folder: Path, *, int8: nn.Module | None = None) -> Any:
    settings = Deploy(runtimes=(OnnxRuntime(),), threads=1, rounds=6)
    found = deploy(network, data(inputs), folder, int8=int8, settings=settings)
    assert all(file.verified.passed for file in found.files), found.notes
    return found


def off(file: Path, network: nn.Module, inputs: dict[str, Tensor]) -> float:
    """How far a file is from its network in PyTorch, run by ONNX Runtime alone."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    with torch.no_grad():
        wanted = network(*inputs.values()).numpy()
    assert out.shape == wanted.shape
    return float(np.abs(out - wanted).mean())


def axes(file: Path) -> list[Any]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return [value.shape for value in (*session.get_inputs(), *session.get_outputs())]


def test_text_of_any_length_in_one_file_and_in_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, shown = Text().eval(), tokens(12, 16)
    context = Context(inputs=shown)
    int8 = QuantizeDynamic().plan(network, context).apply(network).eval()
    found = written(network, shown, tmp_path, int8=int8)
    assert {file.name for file in found.files} == {"model.onnx", "model.int8.onnx"}
    for file in found.files:
        assert axes(file.path) == [["batch", "length"], ["batch", 5]]
        assert file.axes.free == ["length"]
        assert file.axes.reason is None
        for length in (7, 16, 33):
            for count in BATCHES:
                assert off(file.path, file.network, tokens(count, length)) < 1e-3, f"{file.name} at {length}"
    told = next(record for record in found.records if record.figure == "verified")
    assert told.detail["inputs"] == {"input_ids": ["batch", "length"]}
    assert told.detail["tried"]


def test_images_of_several_sizes_in_one_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Picture().eval()
    found = written(network, torch.rand(12, 3, 12, 16), tmp_path)
    (file,) = found.files
    given, returned = axes(file.path)
    assert given == ["batch", 3, "height", "width"]
    assert returned[:2] == ["batch", 2]
    assert file.axes.free == ["height", "width"]
    for height, width in ((12, 16), (20, 8)):
        for count in BATCHES:
            assert off(file.path, network, {"image": torch.rand(count, 3, height, width)}) < 1e-4


@pytest.mark.parametrize("count", BATCHES)
def test_a_network_whose_size_is_fixed_says_so(count: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Fixed().eval()
    found = written(network, torch.rand(12, 3, 12, 12), tmp_path)
    (file,) = found.files
    assert axes(file.path)[0] == ["batch", 3, 12, 12]
    assert file.axes.free == []
    assert file.axes.reason is not None
    assert "takes no other size" in file.axes.reason
    assert any("model.onnx takes inputs of one size only" in note for note in found.notes)
    assert off(file.path, network, {"image": torch.rand(count, 3, 12, 12)}) < 1e-4


def test_a_network_that_is_wrong_at_other_sizes_gets_a_fixed_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lessen.deploy.deployment as module

    judge: Callable[..., str | None] = lambda *_, **__: "at height 18 its output is off by 1.0"  # noqa: E731
    monkeypatch.setattr(module, "wrong_at", judge)
    (file,) = written(Picture().eval(), torch.rand(12, 3, 12, 16), tmp_path).files
    assert axes(file.path)[0] == ["batch", 3, 12, 16]
    assert file.axes.reason == (
        "The network takes other sizes, this file does not: at height 18 its output is off by 1.0"
    )
