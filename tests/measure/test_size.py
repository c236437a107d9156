"""Bytes against the file system, parameters against PyTorch's own pruning and parametrisations."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from lessen.core.errors import NetworkError
from lessen.measure import count_nonzero_parameters, count_parameters, file_bytes, state_bytes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5))


def check_bytes(function) -> None:
    model = network()
    data = save(model.state_dict())
    assert function(model) == len(data)
    (header,) = struct.unpack("<Q", data[:8])
    tensors = sum(value.numel() * value.element_size() for value in model.state_dict().values())
    assert function(model) == 8 + header + tensors


def test_bytes_are_the_files() -> None:
    check_bytes(state_bytes)


def test_bytes_of_parameters_alone_are_found_out() -> None:
    with pytest.raises(AssertionError):
        check_bytes(lambda model: 4 * count_parameters(model))


def test_half_precision_is_half_the_bytes() -> None:
    full, half = nn.Linear(1000, 1000), nn.Linear(1000, 1000).half()
    assert state_bytes(full) / state_bytes(half) == pytest.approx(2, rel=1e-3)


def test_parameters_by_hand() -> None:
    assert count_parameters(network()) == (3 * 8 * 9 + 8) + (8 + 8) + (32 * 5 + 5)


def test_a_shared_parameter_counts_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with torch.no_grad():
        model[0].weight[0] = 0
    assert count_parameters(model) == 16 + 8
    assert count_nonzero_parameters(model) == 12 + 8


def check_masked(function) -> None:
    model = network()
    prune.l1_unstructured(model[4], "weight", amount=0.75)
    expected = count_parameters(network()) - 120 - 8  # a new batch norm's biases are zero
    assert function(model) == expected
    prune.remove(model[4], "weight")
    assert function(model) == expected


def test_a_masked_weight_is_zero() -> None:
    check_masked(count_nonzero_parameters)


def test_counting_what_lies_under_the_mask_is_found() -> None:
    def careless(model: nn.Module) -> int:
        return sum(int(torch.count_nonzero(value)) for value in model.parameters())

    with pytest.raises(AssertionError):
        check_masked(careless)


def test_a_mask_buffer_beside_its_parameter() -> None:
    layer = nn.Linear(10, 10, bias=False)
    layer.register_buffer("weight_mask", torch.arange(100).reshape(10, 10) < 30)
    assert count_parameters(layer) == 100
    assert count_nonzero_parameters(layer) == 30


class _Mask(nn.Module):
    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.mask


def test_a_parametrisation_is_carried_out() -> None:
    layer = nn.Linear(10, 10)
    parametrize.register_parametrization(layer, "weight", _Mask(torch.eye(10)))
    assert count_nonzero_parameters(layer) == 10 + 10
    assert count_parameters(layer) == 110


def test_factors_of_a_parametrisation_are_counted_as_stored() -> None:
    layer = parametrizations.weight_norm(nn.Linear(10, 4))
    assert count_nonzero_parameters(layer) == count_parameters(layer) == 40 + 4 + 4


def test_a_file_counts_all_its_parts(tmp_path: Path) -> None:
    (tmp_path / "model.xml").write_bytes(b"x" * 10)
    with pytest.raises(NetworkError, match=r"needs model\.bin next to it"):
        file_bytes(tmp_path / "model.xml")
    (tmp_path / "model.bin").write_bytes(b"x" * 1000)
    assert file_bytes(tmp_path / "model.xml") == 1010


def test_external_data_of_an_onnx_file_counts(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((64, 64), dtype=np.float32), "w")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", TensorProto.FLOAT, [1, 64])],
        [value("y", TensorProto.FLOAT, [1, 64])],
        [weight],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph), str(path), save_as_external_data=True, location="w.data", size_threshold=0)
    assert file_bytes(path) == path.stat().st_size + (tmp_path / "w.data").stat().st_size > 64 * 64 * 4


def _linked(location: str) -> Any:
    """A tensor whose numbers are in another file."""
    import onnx

    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


@pytest.mark.parametrize("where", ["constant", "branch", "function", "sparse"])
def test_parts_are_found_wherever_an_onnx_file_names_them(where: str, tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    path = tmp_path / "model.onnx"
    for location, match in (("w.bin", "needs w.bin next to it"), ("../w.bin", "outside"), ("/dev/zero", "outside")):
        node = helper.make_node("Constant", [], ["y"], value=_linked(location))
        output = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
        graph = helper.make_graph([node] if where == "constant" else [], "g", [], [output])
        if where == "branch":
            inner = helper.make_graph([node], "inner", [], [output])
            graph.node.add(op_type="If", input=["c"], output=["y"]).attribute.add(
                name="then_branch", type=onnx.AttributeProto.GRAPH
            ).g.CopyFrom(inner)
        elif where == "sparse":
            graph.sparse_initializer.add().values.CopyFrom(_linked(location))
        model = helper.make_model(graph)
        if where == "function":
            model.functions.add(name="f", domain="own").node.append(node)
        path.write_bytes(model.SerializeToString())
        with pytest.raises(NetworkError, match=match):
            file_bytes(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"no file .*nowhere\.onnx"):
        file_bytes(tmp_path / "nowhere.onnx")
