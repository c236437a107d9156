"""A network that pads by itself: its convolutions pad in the file, and the file says what the network says."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, export_onnx, read_kernels
from lessen.operations import Quantize


class Padded(nn.Module):
    """One more row and column of `value` at the end, as TensorFlow pads before a stride."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.first, self.second, self.value = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, stride=2), value

    def forward(self, x: Tensor) -> Tensor:
        out = F.pad(F.relu(self.first(x)), (0, 1, 0, 1), value=self.value)
        return F.relu(self.second(out)).mean((2, 3))


@pytest.mark.parametrize(("value", "pads"), [(0.0, 0), (0.5, 1)])
def test_zeros_are_padded_by_the_convolution_and_others_are_not(value: float, pads: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Padded(value).eval(), torch.randn(8, 3, 8, 8)
    small = Quantize().plan(model, Context(inputs=x, calibration=[Batch(x, torch.arange(8))])).apply(model)
    file = export_onnx(small.eval(), x, tmp_path / "model.onnx")
    counts = read_kernels(OnnxRuntime(), file, x).counts
    assert counts.get("Pad", 0) == pads
    assert counts["QLinearConv"] == 2
    graph = onnx.load(file).graph
    assert {tensor.name for tensor in graph.initializer} <= {name for node in graph.node for name in node.input}
    said = OnnxRuntime().load(file, threads=1)(x)
    with torch.no_grad():
        assert torch.allclose(said, small(x), atol=float(said.std()) / 20)
