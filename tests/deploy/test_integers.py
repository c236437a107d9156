"""The int8 file is computed in whole numbers, by the runtime, and those are the right numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, OpenVino, export_onnx, export_openvino, read_kernels, verify
from lessen.deploy.export import trace
from lessen.operations.quantize import Quantize
from lessen.operations.quantize.grids import Grids
from lessen.operations.quantize.network import with_grids
from lessen.surgery.fold import fold_batchnorm


def test_every_product_is_done_by_an_integer_kernel(case: Any) -> None:
    found = read_kernels(OnnxRuntime(), case.int8_file, case.x)
    assert found.integer_share == 100
    assert found.counts["QLinearConv"] == 9
    assert found.counts["QLinearAdd"] == 3
    assert found.counts["QGemm"] == 1
    assert "Conv" not in found.counts
    plain = read_kernels(OnnxRuntime(), case.file, case.x)
    assert plain.integer_share == 0
    assert sum(plain.multiply_adds.values()) == sum(found.multiply_adds.values()) == multiply_adds()


def multiply_adds() -> int:
    """Of `residual(width=8, depth=8)` on 8 x 8 images, by hand."""
    first = 8 * 9 * 64 + 2 * 8 * 8 * 9 * 64
    second = (8 * 16 * 9 + 16 * 16 * 9 + 8 * 16) * 16
    third = (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * 4
    return first + second + third + 32 * 10


def test_pairs_before_layers_alone_are_computed_in_floating_point(case: Any, tmp_path: Path) -> None:
    """The trap: fake-quantized inputs and weights, nothing behind the convolutions; most of it runs in fp32."""
    plan = Quantize(weight_bits=8).plan(case.model, case.context)
    inputs_only = {site: grid for site, grid in plan.edges.items() if site in {"input:0", "activation", "flatten"}}
    limits = dict.fromkeys(plan.weights, 127)
    model = with_grids(fold_batchnorm(case.model, case.x[:2]), Grids(inputs_only, levels=255, limits=limits))
    found = read_kernels(OnnxRuntime(), export_onnx(model, case.x[:1], tmp_path / "few.onnx"), case.x)
    assert found.integer_share < 50
    assert found.counts["Conv"] + found.counts.get("FusedConv", 0) >= 7


def test_openvino_computes_in_whole_numbers(case: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = export_openvino(case.int8_file, tmp_path / "model.int8.xml")
    assert read_kernels(OpenVino(), path, case.x).integer_share >= 95
    program = OpenVino().load(path, threads=1)
    assert verify(program, case.int8, case.data.validation, int8=True).passed


@pytest.mark.parametrize("bits", [7, 4])
def test_narrow_weights_are_stored_narrow_and_computed_in_whole_numbers(case: Any, tmp_path: Path, bits: int) -> None:
    small = Quantize(bits=8, weight_bits=bits).plan(case.model, case.context).apply(case.model)
    path = export_onnx(small, case.x[:1], tmp_path / "narrow.onnx")
    graph = onnx.load(str(path)).graph
    codes = onnx.TensorProto.INT4 if bits == 4 else onnx.TensorProto.INT8
    tensors = [tensor for tensor in graph.initializer if len(tensor.dims) in {2, 4} and np.prod(tensor.dims) > 8]
    assert {tensor.data_type for tensor in tensors} == {codes}
    values = [np.abs(onnx.numpy_helper.to_array(tensor).astype(int)) for tensor in tensors]
    assert max(int(value.max()) for value in values) == 2 ** (bits - 1) - 1
    assert read_kernels(OnnxRuntime(), path, case.x).integer_share == 100
    assert verify(OnnxRuntime().load(path, threads=1), small, case.data.validation, int8=True).passed


class Layer(nn.Module):
    """One convolution with padding, a bias and a ReLU, between two grids."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(5, 6, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x))


def reference(graph: Any, x: np.ndarray, *, padding: int | None = None) -> np.ndarray:
    """The codes that integers give, from the constants of the file alone; int32 sums, loops and all.

    Args:
        graph: The ONNX graph.
        x: The input, shape (N, C, H, W).
        padding: The code outside the image; None for the code of zero.
    """
    value = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    (s_x, z_x), (s_y, z_y) = ((value[node.input[1]], int(value[node.input[2]])) for node in steps)
    conv = next(node for node in graph.node if node.op_type == "Conv")
    maker = {node.output[0]: node for node in graph.node}
    weight, s_w = (value[name] for name in maker[conv.input[1]].input[:2])
    bias = value[maker[conv.input[2]].input[0]]
    assert weight.dtype == np.int8
    assert bias.dtype == np.int32
    code = np.clip(np.rint(x / s_x) + z_x, 0, 255).astype(np.int32)
    code = np.pad(code, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=z_x if padding is None else padding) - z_x
    high, wide = (code.shape[2] - 3) // 2 + 1, (code.shape[3] - 3) // 2 + 1
    total = np.zeros((len(x), len(weight), high, wide), np.int32)
    for row in range(high):
        for column in range(wide):
            patch = code[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            for channel, filter_ in enumerate(weight.astype(np.int32)):
                total[:, channel, row, column] = (patch * filter_).sum((1, 2, 3), dtype=np.int32) + bias[channel]
    scale = (s_x * s_w / s_y).reshape(1, -1, 1, 1).astype(np.float64)
    return np.clip(np.rint(total * scale) + z_y, z_y, 255).astype(int) - z_y  # the ReLU clips at zero


def test_the_runtime_computes_the_integers_of_a_reference(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Layer().eval(), torch.randn(16, 5, 9, 9) + 0.5
    plan = Quantize().plan(model, Context(inputs=x, calibration=[Batch(x, torch.arange(16))]))
    assert plan.edges["input:0"][1] not in {0, 255}
    path = export_onnx(plan.apply(model), x[:1], tmp_path / "layer.onnx")
    assert read_kernels(OnnxRuntime(), path, x).counts["QLinearConv"] == 1
    said = OnnxRuntime().load(path, threads=1)(x).numpy()
    (scale, _) = next(grid for site, grid in plan.edges.items() if "relu" in site)
    codes = np.rint(said / np.float32(scale)).astype(int)
    graph = onnx.load(str(path)).graph
    expected = reference(graph, x.numpy())
    assert np.abs(codes - expected).max() <= 1
    assert (codes != expected).mean() < 0.01
    # The twin: an image that is surrounded by code 0 instead of the code of zero.
    assert np.abs(codes - reference(graph, x.numpy(), padding=0)).max() > 1


class Wide(nn.Module):
    """What else a convolutional network is made of: concatenation, squeeze and excitation, pools, a clip at 6."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise, self.pool = nn.Conv2d(16, 16, 3, groups=16), nn.MaxPool2d(2)
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.head = nn.Linear(16 * 9, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([F.relu6(self.left(x)), F.relu(self.right(x))], 1)
        x = self.pool(F.relu6(self.depthwise(x)))
        x = x * torch.sigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)))))
        return self.head(x.flatten(1))


def test_concatenation_gates_and_pools_stay_in_whole_numbers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Wide().eval(), 3 * torch.randn(16, 3, 8, 8)
    small = Quantize().plan(model, Context(inputs=x, calibration=[Batch(x, torch.arange(16))])).apply(model)
    fixed = trace(small, x[:1], free=False)  # free sizes are worked out by a few more operators
    path = export_onnx(small, x[:1], tmp_path / "wide.onnx", program=fixed)
    found = read_kernels(OnnxRuntime(), path, x)
    assert found.integer_share == 100
    assert {"QLinearConcat", "QLinearMul", "QLinearGlobalAveragePool", "QGemm"} <= set(found.counts)
    assert not {"Clip", "Relu", "Conv", "Mul"} & set(found.counts)
    said, expected = OnnxRuntime().load(path, threads=1)(x), small(x).detach()
    assert float((said - expected).abs().mean() / expected.abs().mean()) < 0.02
