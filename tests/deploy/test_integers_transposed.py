"""Transposed convolutions in int8 files: the file says what the network says, whatever the groups."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, OpenVino, export_onnx, export_openvino
from lessen.operations import Quantize

CASES: dict[str, dict[str, Any]] = {
    "one group": {"groups": 1},
    "four groups": {"groups": 4},
    "no bias": {"groups": 4, "bias": False},
    "a hole in the output": {"groups": 2, "output_padding": 1, "dilation": 2},
}
KINDS: dict[int, tuple[Any, Any]] = {
    1: (nn.Conv1d, nn.ConvTranspose1d),
    2: (nn.Conv2d, nn.ConvTranspose2d),
    3: (nn.Conv3d, nn.ConvTranspose3d),
}


def upsampling(dimensions: int = 2, **how: Any) -> tuple[nn.Module, Tensor]:
    """A convolution, a transposed one whose channels differ in size by 100 times, and one more."""
    torch.manual_seed(0)
    plain, transposed = KINDS[dimensions]
    up = transposed(8, 12, 3, 2, 1, **how)
    with torch.no_grad():
        up.weight.mul_(torch.logspace(-1, 1, up.weight.shape[1]).reshape(1, -1, *[1] * dimensions))
    network = nn.Sequential(plain(3, 8, 1), nn.ReLU(), up, nn.ReLU(), plain(12, 2, 1))
    return network.eval(), torch.randn(4, 3, *[6 - dimensions] * dimensions)


def quantized(network: nn.Module, x: Tensor, **how: Any) -> Any:
    return Quantize(**how).plan(network, Context(inputs=x, calibration=[Batch(x, torch.arange(len(x)))]))


def run(network: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        made: Tensor = network(x)
    return made


@pytest.mark.parametrize(
    ("dimensions", "case"), [*((2, case) for case in CASES), (1, "four groups"), (3, "four groups")]
)
def test_the_file_says_what_the_network_says(dimensions: int, case: str, tmp_path: Path) -> None:
    network, x = upsampling(dimensions, **CASES[case])
    everywhere = (nn.modules.conv._ConvNd,)
    small = quantized(network, x, where=everywhere).apply(network)
    assert small.grids.limit("2") == 63
    expected = run(small, x)
    # One step of the last grid may be taken the other way; the bias of a wrong channel would be far off.
    step = float(expected.abs().max()) / 100
    file = export_onnx(small, x, tmp_path / "model.onnx")
    assert float((OnnxRuntime().load(file, threads=1)(x) - expected).abs().max()) <= step
    pytest.importorskip("openvino")
    program = OpenVino().load(export_openvino(file, tmp_path / "model.xml"), threads=1)
    assert float((program(x) - expected).abs().max()) <= step


def test_where_no_runtime_has_a_kernel_the_layer_stays_as_it_is() -> None:
    network, x = upsampling(groups=4)
    plan = quantized(network, x)
    assert set(plan.weights) == {"0", "4"}
    assert "no runtime" in plan.left["2"]
    assert any(row["module"] == "2" and row["edit"] == "as it is" for row in plan.describe())
    assert set(quantized(*upsampling(groups=1)).weights) == {"0", "2", "4"}
