"""Tables of embeddings in codes: which grids their rows get, and what files hold of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.deploy import export_onnx, export_openvino
from lessen.deploy.runtimes import OnnxRuntime, OpenVino
from lessen.operations import Quantize, Smooth
from lessen.operations.quantize.tables import coded_table

ROWS, FEATURES = 300, 16


def even() -> Tensor:
    """A table whose rows reach as far on both sides."""
    torch.manual_seed(0)
    table = torch.rand(ROWS, FEATURES, dtype=torch.float64) * 2 - 1
    table[:, 0], table[:, 1] = 1, -1
    return table * torch.linspace(0.5, 1, ROWS, dtype=torch.float64)[:, None]


def test_even_tables_get_one_code_of_zero_and_steps_that_are_multiples() -> None:
    table = even()
    coded = coded_table(table, bits=8)
    assert coded.zeros.unique().tolist() == [128]
    assert coded.steps.unique().numel() > 50
    unit = coded.steps.max() / 255
    assert torch.equal((coded.steps / unit).round() * unit, coded.steps)
    assert (coded.steps >= 0.999 * table.abs().amax(1, keepdim=True) / 127).all()
    assert (coded.weight() - table).abs().amax(1).le(0.505 * coded.steps[:, 0]).all()


def test_one_sided_tables_keep_all_their_codes() -> None:
    table = even().abs()
    coded = coded_table(table, bits=8)
    assert coded.zeros.unique().tolist() == [0]
    torch.testing.assert_close(coded.steps, table.amax(1, keepdim=True) / 255, rtol=1e-3, atol=0)


def test_steps_that_differ_much_are_no_multiples() -> None:
    table = torch.cat([even() / 1000, even()[:1]])
    coded = coded_table(table, bits=8)
    torch.testing.assert_close(coded.steps, table.abs().amax(1, keepdim=True) / 127, rtol=1e-3, atol=0)


def test_a_table_of_zeros_stays_so() -> None:
    assert not coded_table(torch.zeros(4, 3, dtype=torch.float64), bits=8).weight().any()


class Words(nn.Module):
    """Words and a layer behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(even().float())
        self.norm = nn.LayerNorm(FEATURES)
        self.layer = nn.Linear(FEATURES, 4)

    def forward(self, words: Tensor) -> Tensor:
        found = self.norm(self.table(words))
        return torch.cat([self.layer(found), found], -1)


@pytest.mark.parametrize("what", ["onnx", "openvino"])
def test_files_hold_a_byte_a_number_and_a_byte_a_row(what: str, tmp_path: Path) -> None:
    network, words = Words().eval(), torch.arange(40).reshape(4, 10)
    plan = Quantize().plan(network, Context(inputs=words, calibration=[Batch(words, torch.arange(4))]))
    made = plan.apply(network).eval()
    file = export_onnx(made, words, tmp_path / "words.onnx")
    with torch.no_grad():
        wanted = made(words)
    if what == "onnx":
        held = sum(numpy_helper.to_array(each).nbytes for each in onnx.load(file).graph.initializer)
        assert held <= ROWS * (FEATURES + 1) + 400
        said = OnnxRuntime().load(file, threads=1)(words)
    else:
        pytest.importorskip("openvino")
        path = export_openvino(file, tmp_path / "words.xml")
        assert path.with_suffix(".bin").stat().st_size <= ROWS * (FEATURES + 1) + 600
        said = OpenVino().load(path, threads=1)(words)
    torch.testing.assert_close(said[..., 4:], wanted[..., 4:], rtol=1e-4, atol=1e-4)


def test_factors_of_smoothed_inputs_take_two_bytes_in_files_and_change_nothing(tmp_path: Path) -> None:
    network, words = Words().eval(), torch.arange(40).reshape(4, 10)
    plan = Smooth().plan(network, Context(inputs=words, calibration=[Batch(words, torch.arange(4))]))
    made = plan.apply(network).eval()
    assert plan.scaled
    with torch.no_grad():
        torch.testing.assert_close(made(words), network(words), rtol=1e-5, atol=1e-5)
    factors: Tensor = made.layer.scale  # type: ignore[union-attr, assignment]
    assert not torch.equal(factors, torch.ones(FEATURES))
    held = [
        numpy_helper.to_array(each)
        for each in onnx.load(export_onnx(made, words, tmp_path / "m.onnx")).graph.initializer
    ]
    assert any(each.dtype == np.float16 and np.array_equal(each, factors.half().numpy()) for each in held)
    assert not any(
        each.dtype == np.float32 and each.size == FEATURES and np.array_equal(each, factors.numpy()) for each in held
    )


class Twice(nn.Module):
    """Adds equal constants at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = (nn.Parameter(torch.arange(5000.0)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.one).relu() + self.other


def test_equal_constants_are_written_once(tmp_path: Path) -> None:
    assert export_onnx(Twice(), torch.randn(2, 5000), tmp_path / "twice.onnx").stat().st_size < 1.1 * 5000 * 4
