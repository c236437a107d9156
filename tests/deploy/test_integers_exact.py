"""Whole networks in integers: every code that the runtime gives, against sums of int32 from the constants of the file.

Each operator is given the runtime's own codes, so that it is judged by itself: what it gives must be equal, or one
step off where a value lies on the border of two.
"""

import copy
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, export_onnx, read_kernels
from lessen.deploy.runtimes import open_session
from lessen.operations.quantize import LearnedStep, Quantize, SquaredError
from lessen.zoo import mlp

Array = np.ndarray[Any, Any]


class Codes(NamedTuple):
    """Integers of a grid: code 0 is `zero`, a step is `scale`, of the channels along `axis` where there are several."""

    codes: Array
    scale: Array
    zero: int
    axis: int

    @property
    def integers(self) -> Array:
        return self.codes.astype(np.int64) - self.zero

    @property
    def values(self) -> Array:
        shape = [1] * self.codes.ndim
        shape[self.axis] = -1
        return self.integers * (self.scale.reshape(shape) if self.scale.size > 1 else self.scale).astype(np.float64)


def in_integers(graph: Any, x: Array, said: dict[str, Array]) -> dict[str, Array]:
    """The codes behind each QuantizeLinear, from the constants and from what the runtime said before it."""
    known: dict[str, Any] = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    known[graph.input[0].name] = x.astype(np.float64)
    found: dict[str, Array] = {}
    for node in graph.node:
        given = [known[name] for name in node.input if name]
        about = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
        if node.op_type == "QuantizeLinear":
            value = given[0].values if isinstance(given[0], Codes) else given[0]
            zero = int(given[2])
            found[node.output[0]] = np.clip(np.rint(value / np.float64(given[1])) + zero, 0, 255).astype(np.int64)
            made: Any = said[node.output[0]]
        elif node.op_type == "DequantizeLinear":
            zero = int(np.ravel(given[2])[0]) if len(given) > 2 else 0
            made = Codes(given[0], np.atleast_1d(given[1]), zero, int(about.get("axis", 1)))
        elif node.op_type in {"Conv", "Gemm", "MatMul"}:
            made = product(node.op_type, given, about)
        elif node.op_type == "Clip":
            made = np.clip(given[0], *given[1:])
        elif node.op_type == "Cast":  # codes of 4 bits
            assert given[0].dtype == ml_dtypes.int4
            made = given[0].astype(np.int8)
        elif node.op_type in {"Reshape", "Flatten"}:
            made = (
                given[0]._replace(codes=given[0].codes.reshape(len(x), -1))
                if isinstance(given[0], Codes)
                else given[0].reshape(len(x), -1)
            )
        else:
            values = [each.values if isinstance(each, Codes) else each for each in given]
            made = OTHERS[node.op_type](*values)
        known[node.output[0]] = made
    return found


OTHERS: dict[str, Any] = {
    "Relu": lambda x: np.maximum(x, 0),
    "Add": lambda x, y: x + y,
    "GlobalAveragePool": lambda x: x.mean((2, 3), keepdims=True),
}


def product(op: str, given: list[Codes], about: dict[str, Any]) -> Array:
    """A layer: int32 sums, and only then steps."""
    x, weight = given[0].integers, given[1].integers
    if op == "Conv":
        top, left, bottom, right = about.get("pads", [0] * 4)
        x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], (2, 3))
        down, across = about.get("strides", [1, 1])
        total = np.einsum("nchwij,ocij->nohw", windows[:, :, ::down, ::across], weight, optimize=True)
    else:
        total = x @ (weight.T if about.get("transB") else weight)
    shape = (1, -1, 1, 1) if op == "Conv" else (1, -1)
    if len(given) > 2:
        assert given[2].codes.dtype == np.int32
        total = total + given[2].integers.reshape(shape)
    assert np.abs(total).max() < 2**31, "the sums overflow int32"
    steps = given[0].scale.astype(np.float64) * given[1].scale.astype(np.float64)
    result: Array = total * steps.reshape(shape if steps.size > 1 else -1)
    return result


def runtime_codes(path: Path, x: Array, folder: Path) -> tuple[Any, dict[str, Array]]:
    """The graph of a file, and the codes that ONNX Runtime's integer kernels give behind each QuantizeLinear."""
    model = onnx.load(str(path))
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    probe = copy.deepcopy(model)
    probe.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in names)
    onnx.save(probe, str(folder / "probe.onnx"))
    inputs = torch.from_numpy(x)
    before, after = (read_kernels(OnnxRuntime(), each, inputs) for each in (path, folder / "probe.onnx"))
    assert after.integer_share == before.integer_share == 100
    session = open_session(folder / "probe.onnx", threads=1)
    return model.graph, dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def check(path: Path, x: Array, folder: Path, *, layers: int) -> None:
    """Equal or one step off, everywhere; and with a planted error, not."""
    graph, said = runtime_codes(path, x, folder)
    assert len(said) >= layers
    for name, codes in in_integers(graph, x, said).items():
        off = np.abs(codes - said[name].astype(np.int64))
        assert off.max() <= 1, name
        assert (off > 0).mean() < 0.01, name
    wrong = copy.deepcopy(graph)
    kinds = {onnx.TensorProto.INT8, onnx.TensorProto.INT4}
    tensor = next(each for each in wrong.initializer if each.data_type in kinds and len(each.dims) > 1)
    codes = onnx.numpy_helper.to_array(tensor)
    tensor.CopyFrom(onnx.numpy_helper.from_array((-codes.astype(int)).astype(codes.dtype), tensor.name))
    assert max(np.abs(codes - said[name].astype(int)).max() for name, codes in in_integers(wrong, x, said).items()) > 1


def test_a_convolutional_network(case: Any, tmp_path: Path) -> None:
    check(case.int8_file, case.x[:8].numpy(), tmp_path, layers=13)


@pytest.mark.parametrize(
    "quantize",
    [Quantize(), Quantize(weight_bits=4, weight_observer=SquaredError(), learned=LearnedStep())],
)
def test_a_perceptron(quantize: Quantize, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = mlp().eval(), torch.randn(64, 1, 8, 8)
    small = quantize.plan(model, Context(inputs=x[:2], calibration=[Batch(x, torch.arange(64))])).apply(model)
    path = export_onnx(small, x[:1], tmp_path / "model.onnx")
    check(path, x[:16].numpy(), tmp_path, layers=3)
