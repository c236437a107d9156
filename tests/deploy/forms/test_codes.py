"""Weights of few bits in files that run: as many bits as they have, the kernels there are, and the same outputs."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.deploy.export import export_onnx, export_openvino, export_pt2
from lessen.deploy.forms.codes import packed
from lessen.deploy.kernels import read_kernels
from lessen.deploy.runtimes import OnnxRuntime, OpenVino, open_session
from lessen.operations import Awq, BFloat16, Float16, Half, Nearest, QuantizeWeights
from lessen.testing import EXAMPLES, Example
from lessen.testing.networks import Convolutions, Perceptron


def outputs(model: nn.Module, inputs: Tensor) -> np.ndarray:
    with torch.no_grad():
        made: np.ndarray = model.eval()(inputs).numpy()
    return made


def ran(path: Path, inputs: Tensor) -> np.ndarray:
    session = open_session(path, threads=1)
    (made,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    return np.asarray(made)


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


WIDE = Example(lambda: Perceptron(width=160), (12,))
MANY = Example(lambda: Convolutions(width=48), (3, 8, 8))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [16, 48, None])
def test_products_run_in_kernels_for_few_bits(bits: int, group: int | None, tmp_path: Path) -> None:
    model = QuantizeWeights(bits=bits, group=group).plan(WIDE.build(), WIDE.context()).apply(WIDE.build())
    path = export_onnx(model, WIDE.inputs(), tmp_path / "model.onnx")
    found = operators(path)
    assert found["MatMulNBits"] == 4  # one layer runs twice
    assert not found["Gemm"] + found["MatMul"]
    assert np.abs(ran(path, WIDE.inputs(5)) - outputs(model, WIDE.inputs(5))).max() < 1e-5
    kernels = read_kernels(OnnxRuntime(), path, WIDE.inputs())
    assert kernels.multiply_adds == {"MatMulNBits": 12 * 160 + 2 * 160 * 160 + 160 * 5}
    weights = sum(weight.numel() for weight in (WIDE.build().first.weight, WIDE.build().again.weight))  # type: ignore[union-attr,operator]
    assert path.stat().st_size < weights * {2: 2, 3: 4}.get(bits, bits) / 8 * 1.8 + 6000


def test_codes_in_the_wrong_order_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: the first code in the highest bits."""
    import lessen.deploy.forms.codes as module

    model = QuantizeWeights(group=16).plan(WIDE.build(), WIDE.context()).apply(WIDE.build())
    monkeypatch.setattr(
        module, "packed", lambda values, bits: (packed(values, bits) << 4) | (packed(values, bits) >> 4)
    )
    path = export_onnx(model, WIDE.inputs(), tmp_path / "model.onnx")
    assert np.abs(ran(path, WIDE.inputs(5)) - outputs(model, WIDE.inputs(5))).max() > 1e-2


def test_codes_are_packed_as_one_large_number() -> None:
    for bits in (2, 4, 8):
        codes = np.random.default_rng(bits).integers(0, 2**bits, 11).astype(np.uint8)
        whole = sum(int(code) << (bits * place) for place, code in enumerate(codes))
        assert packed(codes, bits).tobytes() == whole.to_bytes(-(-11 * bits // 8), "little")


def test_convolutions_are_stored_in_few_bits_and_run_as_ever(tmp_path: Path) -> None:
    model = QuantizeWeights(bits=4, group=16).plan(MANY.build(), MANY.context()).apply(MANY.build())
    path = export_onnx(model, MANY.inputs(), tmp_path / "model.onnx")
    plain = export_onnx(MANY.build(), MANY.inputs(), tmp_path / "plain.onnx")
    assert path.stat().st_size < plain.stat().st_size / 3
    assert np.abs(ran(path, MANY.inputs(5)) - outputs(model, MANY.inputs(5))).max() < 1e-5
    assert "DequantizeLinear" not in operators(path)  # a runtime would carry these out again and again


def test_scaled_columns_multiply_the_inputs(tmp_path: Path) -> None:
    context = WIDE.context()
    model = QuantizeWeights(bits=3, group=16, method=Awq()).plan(WIDE.build(), context).apply(WIDE.build())
    path = export_onnx(model, WIDE.inputs(), tmp_path / "model.onnx")
    found = operators(path)
    assert found["MatMulNBits"] == 4
    assert found["Mul"] >= 1
    assert np.abs(ran(path, WIDE.inputs(5)) - outputs(model, WIDE.inputs(5))).max() < 1e-5


@pytest.mark.parametrize("network", ["convolutions", "attention"])
def test_openvino_reads_the_same_file(network: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    example = EXAMPLES[network]
    model = QuantizeWeights(bits=4, group=16).plan(example.build(), example.context()).apply(example.build())
    file = export_onnx(model, example.inputs(), tmp_path / "model.onnx")
    program = OpenVino().load(export_openvino(file, tmp_path / "model.xml"), threads=1)
    made = program(example.inputs(5))
    assert np.abs(np.asarray(made) - outputs(model, example.inputs(5))).max() < 1e-4


def test_a_program_runs_without_lessen(tmp_path: Path) -> None:
    example = EXAMPLES["perceptron"]
    model = QuantizeWeights(method=Nearest()).plan(example.build(), example.context()).apply(example.build())
    model = Half().plan(model, example.context()).apply(model)
    path = export_pt2(model, example.inputs(), tmp_path / "model.pt2")
    program = torch.export.load(path)
    assert not [node for node in program.graph.nodes if "lessen" in str(node.target)]
    with torch.no_grad():
        made = program.module()(example.inputs(5)).numpy()
    assert np.abs(made - outputs(model, example.inputs(5))).max() < 1e-6


@pytest.mark.parametrize("kind", [Float16(), BFloat16()], ids=repr)
def test_halves_are_stored_in_sixteen_bits(kind: Float16 | BFloat16, tmp_path: Path) -> None:
    model = Half(kind=kind).plan(WIDE.build(), WIDE.context()).apply(WIDE.build())
    path = export_onnx(model, WIDE.inputs(), tmp_path / "model.onnx")
    plain = export_onnx(WIDE.build(), WIDE.inputs(), tmp_path / "plain.onnx")
    assert path.stat().st_size < 0.55 * plain.stat().st_size + 2000
    assert np.abs(ran(path, WIDE.inputs(5)) - outputs(model, WIDE.inputs(5))).max() < 1e-5
    assert np.abs(outputs(model, WIDE.inputs(5)) - outputs(WIDE.build(), WIDE.inputs(5))).max() > 1e-7
