"""Files hold all of a network, take any number of examples, and are written whole or not at all."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from google.protobuf.message import EncodeError
from torch import Tensor, nn

from lessen.core.errors import ExportError, MissingExtraError
from lessen.deploy import OnnxRuntime, OpenVino, TorchProgram, export_onnx, export_openvino, export_pt2
from lessen.deploy.attention import by_definition
from lessen.deploy.export import _serialized as serialized
from lessen.deploy.export import trace


@pytest.mark.parametrize("count", [1, 2, 7])
def test_onnx_says_what_the_network_says_for_any_number_of_examples(case: Any, count: int) -> None:
    said = OnnxRuntime().load(case.file, threads=1)(case.x[:count])
    expected = case.model(case.x[:count]).detach()
    assert float((said - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_onnx_is_one_file_and_nothing_but_the_network(case: Any) -> None:
    parameters = sum(value.numel() for value in case.model.parameters())
    assert sorted(path.name for path in case.file.parent.iterdir()) == ["model.int8.onnx", "model.onnx"]
    assert 4 * parameters < case.file.stat().st_size < 4 * parameters + 6000
    assert parameters < case.int8_file.stat().st_size < 0.5 * case.file.stat().st_size


@pytest.mark.parametrize("which", ["model", "int8"])
def test_pt2_runs_without_lessen_and_says_the_same(case: Any, tmp_path: Path, which: str) -> None:
    network, other = case.model, case.int8
    if which == "int8":
        network, other = other, network
    path = export_pt2(network, case.x[:1], tmp_path / "model.pt2")
    program = torch.export.load(path)
    assert not [node for node in program.graph.nodes if "lessen" in str(node.target)]
    said = TorchProgram().load(path, threads=1)(case.x)
    assert torch.equal(said, network(case.x).detach())
    assert not torch.equal(said, other(case.x).detach())


def test_openvino_says_the_same(case: Any, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    path = export_openvino(case.file, tmp_path / "model.xml")
    assert path.with_suffix(".bin").is_file()
    said, expected = OpenVino().load(path, threads=1)(case.x), case.model(case.x).detach()
    assert float((said - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


class Two(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 4)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return self.layer(left) * right


def test_several_inputs_by_position_and_by_name(tmp_path: Path) -> None:
    model, left, right = Two(), torch.randn(5, 3), torch.randn(5, 4)
    expected = model(left, right).detach()
    by_place = export_onnx(model, (left, right), tmp_path / "place.onnx")
    by_name = export_onnx(model, {"right": right, "left": left}, tmp_path / "name.onnx")
    assert torch.allclose(OnnxRuntime().load(by_place, threads=1)((left, right)), expected, atol=1e-5)
    program = OnnxRuntime().load(by_name, threads=1)
    assert torch.allclose(program({"left": left, "right": right}), expected, atol=1e-5)
    with pytest.raises(ExportError, match="takes 2 inputs"):
        program({"left": left})


class Branching(nn.Module):
    """Cannot be traced: what it does depends on a value."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


def test_what_cannot_be_exported_is_said_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ExportError, match="cannot be traced"):
        export_onnx(Branching(), torch.randn(2, 3), path)
    assert path.read_bytes() == b"old"
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]


class Endless:
    """Stands for a network whose file would be larger than protobuf can write."""

    def SerializeToString(self) -> bytes:  # as onnx.ModelProto calls it
        raise EncodeError("Failed to serialize proto")


def test_what_does_not_fit_into_one_file_is_said(case: Any) -> None:
    proto = onnx.load(str(case.file))
    assert serialized(proto, "Small") == case.file.read_bytes()
    with pytest.raises(ExportError, match="Endless does not fit into one ONNX file"):
        serialized(Endless(), "Endless")


def test_a_file_that_is_missing_or_damaged_is_an_error(case: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(case.file.read_bytes()[:1000])
    for runtime in (OnnxRuntime(), OpenVino(), TorchProgram()):
        with pytest.raises(ExportError, match="no file"):
            runtime.load(tmp_path / "none.onnx", threads=1)
        try:
            with pytest.raises(ExportError, match=r"damaged\.onnx"):
                runtime.load(damaged, threads=1)
        except MissingExtraError:
            continue


def test_exporting_prints_nothing_and_leaves_the_network(
    case: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    case.model.train()
    export_onnx(case.model, case.x[:1], tmp_path / "again.onnx")
    assert case.model.training
    case.model.eval()
    assert capfd.readouterr() == ("", "")
    assert onnx.load(str(tmp_path / "again.onnx")).SerializeToString() == onnx.load(str(case.file)).SerializeToString()


ALLOWED = torch.tensor([[True, False, True], [True, True, False], [False, False, False]])


class Attention(nn.Module):
    """Attention of four heads; with windows, over five axes, as networks have it that look at parts of an image."""

    def __init__(self, *, windows: bool, keys: int = 2, **given: Any) -> None:
        super().__init__()
        self.windows, self.keys, self.given = windows, keys, given
        self.all = nn.Linear(8, (4 + 2 * keys) * 4)

    def forward(self, tokens: Tensor) -> Tensor:
        heads = self.all(tokens if self.windows else tokens[:, 0]).unflatten(-1, (-1, 4)).movedim(-2, 1)
        query, key, value = heads.split((4, self.keys, self.keys), 1)
        made: Tensor = nn.functional.scaled_dot_product_attention(
            query.movedim(1, -3), *(x.movedim(1, -3) for x in (key, value)), **self.given
        )
        return made.flatten(1).cumsum(1)


GIVEN: dict[str, dict[str, Any]] = {
    "plain": {},
    "scaled": {"scale": 0.3},
    "causal": {"is_causal": True},
    "boolean": {"attn_mask": ALLOWED},
    "added": {"attn_mask": torch.tensor([[0.0, 1.0, -2.0]])},
    "grouped": {"enable_gqa": True},
}


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("kind", GIVEN)
def test_attention_in_files_is_that_of_pytorch(kind: str, windows: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, tokens = (
        Attention(windows=windows, keys=2 if kind == "grouped" else 4, **GIVEN[kind]).eval(),
        torch.randn(4, 5, 3, 8),
    )
    file = export_onnx(network, tokens, tmp_path / "attention.onnx")
    with torch.no_grad():
        wanted = network(tokens)
    torch.testing.assert_close(OnnxRuntime().load(file, threads=1)(tokens), wanted, rtol=1e-5, atol=1e-5)
    in_openvino = OpenVino().load(export_openvino(file, tmp_path / "attention.xml"), threads=1)(tokens)
    torch.testing.assert_close(in_openvino, wanted, rtol=1e-5, atol=1e-5)


class Scores(nn.Module):
    """Attention alone."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(query, key, value)


def test_attention_takes_five_operators(tmp_path: Path) -> None:
    inputs = tuple(torch.randn(2, 4, 5, 8) for _ in range(3))
    fixed = trace(Scores(), inputs, free=False)  # free lengths are worked out by a few more operators
    file = export_onnx(Scores(), inputs, tmp_path / "attention.onnx", program=fixed)
    written = [node.op_type for node in onnx.load(file).graph.node]
    assert written == ["Transpose", "MatMul", "Mul", "Softmax", "MatMul"]


@pytest.mark.parametrize("given", [{}, {"is_causal": True}, {"enable_gqa": True}, {"scale": 0.2}])
def test_attention_by_its_definition_is_that_of_pytorch(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, heads, 5, 4) for heads in (4, 2 if given.get("enable_gqa") else 4, 4))
    if given.get("enable_gqa"):
        value = value[:, :2]
    wanted = nn.functional.scaled_dot_product_attention(query, key, value, **given)
    torch.testing.assert_close(by_definition(query, key, value, **given), wanted)
