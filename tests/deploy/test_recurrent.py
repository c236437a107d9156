"""LSTMs in integers: what the files hold and compute, number by number, and what the kernel cannot do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from lessen.core import Context
from lessen.deploy import Deploy, OnnxRuntime, OpenVino, export_onnx, export_openvino, export_pt2, read_kernels
from lessen.deploy.constants import Constants
from lessen.deploy.integers import store_integers
from lessen.operations import PruneChannels, QuantizeDynamic
from lessen.pipeline import compress
from lessen.schemes import offline


class Reader(nn.Module):
    """Words in, both outputs and last cells out."""

    def __init__(self, *, start: bool = False, first: bool = True, **how: Any) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.reader = nn.LSTM(16, 24, batch_first=first, **how)
        self.head = nn.Linear(self.reader.hidden_size * (1 + self.reader.bidirectional), 3)
        self.start, self.first = start, first

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens if self.first else tokens.transpose(0, 1))
        layers = self.reader.num_layers * (1 + self.reader.bidirectional)
        start = x.mean() + torch.zeros(layers, tokens.shape[0], 24)
        out, (_, cells) = self.reader(x, (start, start)) if self.start else self.reader(x)
        logits: Tensor = self.head(out.mean(1 if self.first else 0)) + cells.mean()
        return logits


TOKENS = torch.arange(12).reshape(4, 3) * 7 % 20


def quantized(model: nn.Module, tokens: Tensor = TOKENS, *, bits: int | None = None) -> nn.Module:
    return QuantizeDynamic(weight_bits=bits).plan(model.eval(), Context(inputs=tokens)).apply(model)


def codes(path: Path) -> list[np.ndarray[Any, Any]]:
    found = [numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer]
    return [each for each in found if each.ndim == 3]


def test_files_compute_in_integers_and_agree_with_the_network(tmp_path: Path) -> None:
    """Layers, directions, states to start from, time first, no biases, last cells."""
    torch.manual_seed(0)
    small = quantized(Reader(num_layers=2, bidirectional=True, start=True, first=False, bias=False))
    path = export_onnx(small, TOKENS[:2], tmp_path / "model.onnx")
    kernels = read_kernels(OnnxRuntime(), path, TOKENS)
    assert kernels.integer_share == 100
    assert kernels.counts["DynamicQuantizeLSTM"] == 2
    found = codes(path)
    assert len(found) == 4
    assert all(each.dtype == np.int8 and np.abs(each).max() == 63 for each in found)
    more = torch.cat([TOKENS, TOKENS.flip(1)], 1)[:3]
    with torch.no_grad():
        wanted = small(more)
    assert torch.allclose(OnnxRuntime().load(path, threads=1)(more), wanted, atol=0.01)
    second = export_openvino(path, tmp_path / "model.xml")
    assert torch.allclose(OpenVino().load(second, threads=1)(more), wanted, atol=0.01)
    assert second.with_suffix(".bin").stat().st_size < 1.3 * sum(each.size for each in found) + 4 * 20 * 16


def rounded(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """On 256 values from its smallest to its largest, zero among them."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    step = np.float32((high - low) / 255) or np.float32(1)
    zero = np.rint(-low / step)
    return ((np.clip(np.rint(x / step) + zero, 0, 255) - zero) * step).astype(np.float32)


def by_hand(weights: list[np.ndarray[Any, Any]], x_TNI: np.ndarray[Any, Any], *, states: bool) -> np.ndarray[Any, Any]:
    """One layer, gate by gate, from weights (4 H, I) and (4 H, H) and a bias, in PyTorch's order of gates."""
    w, r, b = weights
    x_TNI, hidden, cell = rounded(x_TNI), np.zeros((x_TNI.shape[1], r.shape[1]), np.float32), np.float32(0)
    for x_NI in x_TNI:
        given = rounded(hidden) if states and hidden.any() else hidden
        i, f, g, o = np.split(x_NI @ w.T + given @ r.T + b, 4, axis=1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        hidden = (o * np.tanh(cell)).astype(np.float32)
    return hidden


class Alone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(16, 24)

    def forward(self, x_NTI: Tensor) -> Tensor:
        last: Tensor = self.reader(x_NTI.transpose(0, 1))[1][0][0]
        return last


def test_the_kernel_rounds_what_it_is_given_and_its_states(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Alone(), torch.randn(2, 3, 16)
    path = export_onnx(quantized(model, x), x, tmp_path / "model.onnx")
    weights = []
    for weight in (model.reader.weight_ih_l0, model.reader.weight_hh_l0):
        step = weight.detach().abs().amax(1, keepdim=True) / 63
        weights.append(((weight.detach() / step).round() * step).numpy())
    weights.append((model.reader.bias_ih_l0 + model.reader.bias_hh_l0).detach().numpy())
    file = OnnxRuntime().load(path, threads=1)(x).numpy()
    given = x.numpy().transpose(1, 0, 2)
    assert np.abs(by_hand(weights, given, states=True) - file).max() < 2e-6
    assert np.abs(by_hand(weights, given, states=False) - file).max() > 2e-4  # the twin: the states as they are


def test_four_bits_are_stored_in_four(tmp_path: Path) -> None:
    torch.manual_seed(0)
    small = quantized(Alone(), x := torch.randn(3, 3, 16), bits=4)
    path = export_onnx(small, x, tmp_path / "model.onnx")
    assert all(str(each.dtype) == "int4" for each in codes(path))
    with torch.no_grad():
        assert torch.allclose(OnnxRuntime().load(path, threads=1)(x), small(x), atol=0.01)
    second = export_openvino(path, tmp_path / "model.xml")
    assert torch.allclose(OpenVino().load(second, threads=1)(x), small(x), atol=0.01)


@pytest.mark.parametrize("layout", [0, 1])
def test_what_the_kernel_lacks_keeps_its_codes_and_computes_the_same(layout: int) -> None:
    """The kernel has no `layout`: such an LSTM stays one of ONNX, with int8 weights in the file."""
    draw = np.random.default_rng(0)
    made, nodes = {}, []
    for name, inputs in (("W", 5), ("R", 6)):
        made[f"{name}c"] = draw.integers(-63, 64, (24, inputs)).astype(np.int8)
        made[f"{name}s"] = draw.uniform(0.001, 0.01, 24).astype(np.float32)
        nodes += [
            helper.make_node("DequantizeLinear", [f"{name}c", f"{name}s"], [f"{name}d"], axis=0),
            helper.make_node("Unsqueeze", [f"{name}d", "zero"], [name]),
        ]
    nodes.append(helper.make_node("LSTM", ["x", "W", "R"], ["y"], hidden_size=6, layout=layout))
    constants = [numpy_helper.from_array(each, name) for name, each in made.items()]
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 5])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [*constants, numpy_helper.from_array(np.array([0]), "zero")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = ir.from_proto(proto)
    store_integers(Constants(model, {}))
    (node,) = [node for node in model.graph if "LSTM" in node.op_type]
    assert node.op_type == ("LSTM" if layout else "DynamicQuantizeLSTM")
    if not layout:
        return
    after = ir.to_proto(model)
    assert {node.op_type for node in after.graph.node} >= {"Cast", "Mul", "LSTM"}
    x = draw.normal(size=(2, 3, 5)).astype(np.float32)
    before, now = (onnx.reference.ReferenceEvaluator(each).run(None, {"x": x})[0] for each in (proto, after))
    assert np.allclose(before, now, atol=1e-6)


def test_files_take_texts_of_any_length(tmp_path: Path) -> None:
    """The exporter is told the shapes of recurrent layers; afterwards all is as it was."""

    class Texts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.reader = nn.Embedding(20, 8), nn.GRU(8, 12, batch_first=True, bidirectional=True)

        def forward(self, tokens: Tensor) -> Tensor:
            last: Tensor = self.reader(self.words(tokens))[0][:, -1]
            return last

    operator = torch.ops.aten.gru.input
    before, model = dict(operator.py_kernels), Texts().eval()
    path = export_onnx(model, TOKENS, tmp_path / "model.onnx")
    program = torch.export.load(export_pt2(model, TOKENS, tmp_path / "model.pt2")).module()
    assert operator.py_kernels == before
    assert [node.op_type for node in onnx.load(path).graph.node].count("GRU") == 1
    for length in (2, 11):
        tokens = torch.arange(3 * length).reshape(3, length) % 20
        with torch.no_grad():
            wanted = model(tokens)
            assert torch.allclose(OnnxRuntime().load(path, threads=1)(tokens), wanted, atol=1e-6)
            assert torch.allclose(program(tokens), wanted, atol=1e-6)


def test_a_reader_of_texts_gets_a_smaller_file_that_agrees(tmp_path: Path) -> None:
    """Which of four words comes first, in three steps."""
    torch.manual_seed(0)
    x = torch.randint(4, 20, (900, 4))
    x[torch.arange(900), torch.randint(4, (900,))] = y = torch.randint(4, (900,))
    model = nn.Sequential(Reader(), nn.Linear(3, 4))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for step in range(60):
        part = torch.arange(64) + 64 * (step % 9)
        nn.functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
    parts, names = torch.arange(900).split([600, 150, 150]), ("train", "validation", "test")
    found = compress(
        model,
        {name: (x[part], y[part]) for name, part in zip(names, parts, strict=True)},
        steps=[PruneChannels(keep=0.5), offline(epochs=2), QuantizeDynamic()],
        run=tmp_path / "run",
        deploy=Deploy(runtimes=(OnnxRuntime(),), rounds=6, every_step=False),
        progress=False,
    )
    path = found.run / "model.int8.onnx"
    of_file = {record.figure: record.value for record in found.records if record.file == "model.int8.onnx"}
    assert of_file["verified"] == 1, of_file
    assert of_file["integer_share"] == 100
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(path).graph.node}
    assert path.stat().st_size < 0.6 * (found.run / "reference" / "teacher.onnx").stat().st_size
