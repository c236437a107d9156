"""The lines on the page that load a file are copied and run: any number of inputs and outputs."""

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lessen
from lessen.deploy import Deploy, OnnxRuntime, OpenVino
from lessen.operations import PruneWeights
from lessen.pipeline import Measuring


class Two(nn.Module):
    """Two inputs, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(5, 2)

    def forward(self, image: Tensor, table: Tensor) -> dict[str, Tensor]:
        return {"scores": self.left(image), "sums": self.right(table) + image.sum(1, keepdim=True)}


class One(nn.Module):
    """One of each."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(image)


def snippets(page: Path, ends: str) -> list[str]:
    blocks = re.findall(r"<pre[^>]*><code>(.*?)</code></pre>", page.read_text(), re.S)
    return [html.unescape(block) for block in blocks if ends in block]


@pytest.mark.parametrize(
    ("network", "inputs"),
    [
        (Two(), {"image": torch.randn(60, 3), "table": torch.randn(60, 5)}),
        (Two(), (torch.randn(60, 3), torch.randn(60, 5))),
        (One(), torch.randn(60, 3)),
    ],
    ids=["by name", "by place", "one"],
)
@pytest.mark.parametrize("runtime", [OnnxRuntime(), OpenVino()])
def test_the_lines_on_the_page_run(
    network: nn.Module, inputs: Any, runtime: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = ".onnx" if isinstance(runtime, OnnxRuntime) else ".xml"
    if ends == ".xml":
        pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    labels = torch.arange(60) % 4
    done = lessen.compress(
        network, (inputs, labels), steps=[PruneWeights(keep=0.9)], run="run", progress=False,
        output="scores" if isinstance(network, Two) else None, deploy=Deploy(runtimes=(runtime,), rounds=6),
        measuring=Measuring(repeats=6, calibration=16),
    )  # fmt: skip
    (lines,) = snippets(done.report, f"model{ends}")
    sizes = "image (batch, 3), table (batch, 5)" if isinstance(network, Two) else "image (batch, 3)"
    assert f"Inputs: {sizes}. Named sizes may vary; numbers are fixed." in done.report.read_text()
    some = inputs[:7] if isinstance(inputs, Tensor) else None
    given = {"inputs": some.numpy()} if some is not None else {}
    if some is None:
        both = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
        given = {name: value[:7].numpy() for name, value in zip(("image", "table"), both, strict=True)}
    place: dict[str, Any] = dict(given)
    exec(lines, place)
    with torch.no_grad():
        wanted = done.model(*(torch.from_numpy(value) for value in given.values()))
    wanted = [wanted] if isinstance(wanted, Tensor) else list(wanted.values())
    assert len(place["outputs"]) == len(wanted)
    for said, right in zip(place["outputs"], wanted, strict=True):
        assert np.allclose(said, right.numpy(), atol=1e-5)
