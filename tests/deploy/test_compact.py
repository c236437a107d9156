"""What is written is what runs: an OpenVINO model in few layers, and an ONNX file without notes of the exporter."""

import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, OpenVino, export_onnx, export_openvino
from lessen.operations import Quantize

DEPTH = 4


class Files:
    """An int8 network of `DEPTH` convolutions, one of them depthwise, and a head, as ONNX and OpenVINO."""

    def __init__(self, folder: Path) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU6()]
        for groups in [8, *[1] * (DEPTH - 2)]:
            layers += [nn.Conv2d(8, 8, 3, padding=1, groups=groups), nn.ReLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
        self.x = torch.randn(8, 3, 10, 10)
        context = Context(inputs=self.x[:2], calibration=[Batch(self.x, torch.arange(8))])
        self.model = Quantize().plan(model, context).apply(model).eval()
        self.onnx = export_onnx(self.model, self.x[:2], folder / "model.onnx")
        self.xml = folder / "model.xml"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    pytest.importorskip("openvino")
    made = Files(tmp_path_factory.mktemp("files"))
    export_openvino(made.onnx, made.xml)
    return made


def test_onnx_carries_no_notes_of_the_exporter(files: Files) -> None:
    model = onnx.load(files.onnx)
    parts: list[Any] = [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]
    assert not [each.name for each in parts if each.metadata_props or each.doc_string]
    assert not model.graph.value_info
    assert not model.functions
    assert {each.key for each in model.metadata_props} <= {"lessen.target"}


def test_openvino_has_a_dozen_layers_of_its_own_for_each_of_the_network(files: Files) -> None:
    """One grid with its ends, a weight with its step, a product and a bias: 11; spelled out they are 50."""
    text = files.xml.read_text()
    assert text.count("<layer ") <= 12 * (DEPTH + 1)
    assert len(text) <= 6500 * (DEPTH + 1)
    parameters = sum(value.numel() for value in files.model.parameters())
    channels = 8 * DEPTH + 5
    assert parameters < files.xml.with_suffix(".bin").stat().st_size < parameters + channels * 8 + 200


def test_openvino_in_few_layers_says_the_same(files: Files) -> None:
    found, expected = OpenVino().load(files.xml, threads=1)(files.x), OnnxRuntime().load(files.onnx, threads=1)(files.x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.02
    openvino = pytest.importorskip("openvino")
    read = openvino.Core().read_model(files.xml)
    model = onnx.load(files.onnx)
    for ports, values in ((read.inputs, model.graph.input), (read.outputs, model.graph.output)):
        assert [port.get_any_name() for port in ports] == [value.name for value in values]


def test_a_constant_is_written_once(files: Files) -> None:
    openvino = pytest.importorskip("openvino")
    constants = [op for op in openvino.Core().read_model(files.xml).get_ops() if op.get_type_name() == "Constant"]
    contents = [(str(op.get_output_element_type(0)), *op.get_output_shape(0), op.data.tobytes()) for op in constants]
    assert len(set(contents)) == len(contents)


class Constants(nn.Module):
    """Returns constants too, and two of them are equal."""

    one: Tensor
    other: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("one", torch.arange(4.0))
        self.register_buffer("other", torch.arange(4.0))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.layer(x) * self.one, self.other * 1, self.one + 0


def test_equal_constants_that_a_network_returns_keep_their_names(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    file = export_onnx(Constants().eval(), torch.randn(2, 4), tmp_path / "model.onnx")
    program = openvino.Core().compile_model(export_openvino(file, tmp_path / "model.xml"), "CPU")
    assert [port.get_names() for port in program.outputs] == [{value.name} for value in onnx.load(file).graph.output]


def test_an_openvino_without_these_passes_still_writes_a_file(
    files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino._offline_transformations", None)
    export_openvino(files.onnx, tmp_path / "model.xml")
    load = OpenVino().load
    found, expected = load(tmp_path / "model.xml", threads=1)(files.x), load(files.xml, threads=1)(files.x)
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.02
    assert (tmp_path / "model.xml").stat().st_size > files.xml.stat().st_size
