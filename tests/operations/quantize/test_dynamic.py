"""Grids that are found while the network runs: what is found, and that the file computes in whole numbers."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import PlanError
from lessen.deploy import OnnxRuntime, export_onnx, export_pt2, read_kernels
from lessen.operations import LowRank, PruneChannels, Quantize, QuantizeDynamic
from lessen.operations.quantize.fake import weight_scale
from lessen.operations.quantize.found import quantize_dynamically
from lessen.testing import EXAMPLES
from lessen.zoo import transformer

EXAMPLE = EXAMPLES["perceptron"]


@pytest.fixture(scope="module")
def small() -> nn.Module:
    return QuantizeDynamic().plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build())


def found(x: np.ndarray) -> np.ndarray:
    """What ONNX writes of DynamicQuantizeLinear, number by number."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = np.float32((np.float32(high) - np.float32(low)) / np.float32(255)) or np.float32(1)
    zero = int(np.clip(np.rint(np.float32(-low) / step), 0, 255))
    codes = [min(max(int(np.rint(value / step)) + zero, 0), 255) for value in x.ravel()]
    return ((np.array(codes, np.float32) - zero) * step).reshape(x.shape)


@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_the_grid_goes_from_the_smallest_to_the_largest_and_holds_zero(shift: float) -> None:
    x = np.random.default_rng(0).normal(shift, 1, (40, 5)).astype(np.float32)
    x[0, 0] = 0
    assert np.array_equal(quantize_dynamically(torch.from_numpy(x)).numpy(), found(x))
    assert not np.array_equal(
        quantize_dynamically(torch.from_numpy(x)).numpy(), found(x + np.float32(0.1)) - np.float32(0.1)
    )
    assert quantize_dynamically(torch.from_numpy(x))[0, 0] == 0
    assert not quantize_dynamically(torch.zeros(3)).any()


def integers(graph: onnx.GraphProto, x: np.ndarray) -> np.ndarray:
    """The network from the constants of its file, with sums of integers."""
    value = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "MatMulInteger":
            low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
            step = np.float32(np.float32(high - low) / np.float32(255))
            zero = int(np.clip(np.rint(np.float32(-low) / step), 0, 255))
            codes = np.clip(np.rint(x / step) + zero, 0, 255).astype(np.int32) - zero
            weight = value[node.input[1]]
            assert weight.dtype == np.int8
            total = codes @ weight.astype(np.int32)
        elif node.op_type == "Mul" and node.input[1] in value:
            steps = value[node.input[1]] * step
        elif node.op_type == "Add":
            bias = value[node.input[1]] if node.input[1] in value else value[node.input[0]]
            x = total.astype(np.float32) * steps + bias
        elif node.op_type == "Relu":
            x = np.maximum(x, 0)
    return x


def test_the_file_multiplies_integers_and_says_what_the_network_says(small: nn.Module, tmp_path: Path) -> None:
    inputs = EXAMPLE.inputs(32)
    path = export_onnx(small, inputs[:1], tmp_path / "model.onnx")
    kernels = read_kernels(OnnxRuntime(), path, inputs)
    assert kernels.integer_share == 100
    assert kernels.counts["DynamicQuantizeMatMul"] == 4
    said: Tensor = OnnxRuntime().load(path, threads=1)(inputs)
    with torch.no_grad():
        expected = small(inputs)
        assert torch.allclose(said, expected, atol=1e-5)
        assert not torch.allclose(EXAMPLE.build()(inputs), expected, atol=1e-5)
    graph = onnx.load(str(path)).graph
    assert np.allclose(integers(graph, inputs.numpy()), said.numpy(), atol=1e-5)
    # The twin: a network whose first weight is one step off.
    for tensor in graph.initializer:
        codes = onnx.numpy_helper.to_array(tensor)
        if codes.dtype == np.int8 and codes.ndim == 2 and codes.shape[0] == 12:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.where(codes < 127, codes + 1, codes).astype(np.int8), tensor.name)
            )
    assert not np.allclose(integers(graph, inputs.numpy()), said.numpy(), atol=1e-5)
    program = torch.export.load(export_pt2(small, inputs[:1], tmp_path / "model.pt2")).module()
    assert torch.allclose(program(inputs), expected, atol=1e-5)


def test_what_an_example_gets_depends_on_the_others(small: nn.Module) -> None:
    """The card says so; a network with observed grids does not have it."""
    inputs = EXAMPLE.inputs(8)
    with torch.no_grad():
        together = small(torch.cat([inputs, 50 * inputs[:1]]))[:8]
        assert not torch.allclose(together, small(inputs), atol=1e-3)
        fixed = Quantize().plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build())
        assert torch.allclose(fixed(torch.cat([inputs, 50 * inputs[:1]]))[:8], fixed(inputs), atol=1e-5)


def test_a_transformer_is_close_and_its_linear_layers_are_integer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = transformer(dim=32, depth=1, heads=2, image=8, patch=4).eval(), torch.randn(16, 1, 8, 8)
    plan = QuantizeDynamic(exclude="head").plan(model, Context(inputs=x))
    assert "head" not in plan.weights
    assert not any("patch" in path for path in plan.weights)
    small = plan.apply(model)
    with torch.no_grad():
        assert float((small(x) - model(x)).norm() / model(x).norm()) < 0.02
    counts = read_kernels(OnnxRuntime(), export_onnx(small, x[:1], tmp_path / "model.onnx"), x).counts
    integer = sum(count for name, count in counts.items() if "Integer" in name or "DynamicQuantizeMatMul" in name)
    assert integer == len(plan.weights) == 6


def test_channels_and_ranks_go_on_top(small: nn.Module) -> None:
    context, inputs = EXAMPLE.context(), EXAMPLE.inputs()
    pruned = PruneChannels(keep=0.5).plan(small, context).apply(small)
    assert pruned.first.weight.shape[0] == 16  # type: ignore[union-attr,index]
    thin = LowRank(rank=3).plan(small, context).apply(small)
    with torch.no_grad():
        for network in (pruned, thin):
            assert network(inputs).shape == (8, 5)
        weight = thin.first[0].weight  # type: ignore[index,union-attr]
        codes = weight / weight_scale(weight, limit=127, axis=0)[:, None]
        assert not torch.allclose(codes, codes.round(), atol=1e-3)  # rounded when it runs, not where it is stored


def test_where_there_is_nothing_to_do() -> None:
    x = torch.randn(2, 3, 8, 8)
    with pytest.raises(PlanError, match="Quantize"):
        QuantizeDynamic().plan(nn.Sequential(nn.Conv2d(3, 4, 3)), Context(inputs=x))
    plan = QuantizeDynamic().plan(EXAMPLE.build(), EXAMPLE.context())
    with pytest.raises(PlanError, match="already"):
        plan.apply(plan.apply(EXAMPLE.build()))
    with pytest.raises(PlanError, match="another network"):
        plan.apply(EXAMPLES["convolutions"].build())
