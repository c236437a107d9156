"""The lines of the README, run as they stand, on networks of others; what comes out is smaller and is what it says."""

import re
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
import torchvision

from lessen.operations.prune_channels import masked
from lessen.pipeline import known_settings, read_plans

README = Path(__file__).parents[1] / "README.md"
AGAIN = """
import sys, torch, torchvision, lessen
network = torchvision.models.get_model(sys.argv[1], num_classes=4)
images = torch.load(sys.argv[2], weights_only=True)
with torch.no_grad():
    torch.save(lessen.load("runs/mine", network)(images), sys.argv[3])
"""


def block() -> str:
    """The Python of the README."""
    (found,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)
    return str(found)


def test_it_is_fifteen_lines() -> None:
    assert len([line for line in block().splitlines() if line.strip()]) <= 16


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet18"])
def test_the_lines_compress_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    images, labels = torch.randn(192, 3, 32, 32), torch.arange(192) % 4
    network = torchvision.models.get_model(name, num_classes=4).eval()
    given = {
        "load_my_network": lambda: network,
        "x": images[:128], "y": labels[:128],
        "x_val": images[128:160], "y_val": labels[128:160],
        "x_test": images[160:], "y_test": labels[160:],
    }  # fmt: skip
    exec(block(), given)
    small = given["small"]

    run = tmp_path / "runs" / "mine"
    count = sum(parameter.numel() for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in small.model.parameters()) < 0.5 * count
    assert (run / "model.int8.onnx").stat().st_size < 0.2 * (run / "reference" / "teacher.onnx").stat().st_size

    # What was cut equals what was masked.
    plan = read_plans(run / "plan.json")[0]
    with torch.no_grad():
        pruned, reference = (
            made.double().eval()(images[:4].double()) for made in (plan.apply(network), masked(network, plan))
        )
    assert float((pruned - reference).abs().max() / reference.abs().max()) < 1e-5

    # A new process rebuilds it strictly from the plan and the weights.
    torch.save(images[:4], tmp_path / "images.pt")
    subprocess.run([sys.executable, "-c", AGAIN, name, "images.pt", "out.pt"], cwd=tmp_path, check=True)
    with torch.no_grad():
        assert torch.allclose(torch.load(tmp_path / "out.pt", weights_only=True), small.model(images[:4]), atol=1e-5)

    # The fp32 file says what the network before the quantization says; the run verified it on more.
    session = onnxruntime.InferenceSession(str(run / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.run(None, {session.get_inputs()[0].name: images[:4].numpy()})[0].shape == (4, 4)
    verified = [record for record in small.records if record.file == "model.onnx" and record.figure == "verified"]
    assert [record.value for record in verified] == [1.0]


def test_known_settings_hold_every_plan() -> None:
    assert {"PrunedChannels", "Quantized", "PrunedWeights", "Factorized"} <= known_settings("operations").keys()
