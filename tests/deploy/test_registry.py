"""The exporter's table of operators is made once, and later exports give what they gave before."""

from pathlib import Path

import pytest
import torch
from onnxscript._internal import ast_utils
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from lessen.core import Batch, Context
from lessen.deploy import export_onnx, registry
from lessen.operations import Quantize


def networks() -> list[nn.Module]:
    torch.manual_seed(0)
    plain, x = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), torch.randn(8, 1, 8, 8)
    context = Context(inputs=x[:2], calibration=[Batch(x, torch.arange(8))])
    return [plain.eval(), Quantize().plan(plain, context).apply(plain).eval()]  # the second needs operators of ours


def test_sources_are_read_once_and_files_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = 0, ast_utils.get_src_and_ast

    def counted(*args: object) -> object:
        nonlocal reads
        reads += 1
        return read(*args)

    def files(name: str) -> list[bytes]:
        return [export_onnx(one, torch.randn(2, 1, 8, 8), tmp_path / f"{name}.onnx").read_bytes() for one in networks()]

    monkeypatch.setattr(ast_utils, "get_src_and_ast", counted)
    monkeypatch.setattr(registry, "_known", {})
    before = ONNXRegistry.__dict__["from_torchlib"]
    first = files("first")
    once, reads = reads, 0
    assert files("again") == first
    assert (once > 100, reads) == (True, 0)
    assert ONNXRegistry.__dict__["from_torchlib"] is before


def test_without_the_exporters_own_table_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = networks()[1]
    usual = export_onnx(network, torch.randn(2, 1, 8, 8), tmp_path / "usual.onnx").read_bytes()
    monkeypatch.setattr("torch.onnx._internal.exporter._registration.ONNXRegistry", type("Other", (ONNXRegistry,), {}))
    assert export_onnx(network, torch.randn(2, 1, 8, 8), tmp_path / "other.onnx").read_bytes() == usual
