"""Of a table that is read at known places, the file holds these rows alone, in as many bits as before."""

from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, Operation
from lessen.deploy import OnnxRuntime, OpenVino, export_onnx, export_openvino
from lessen.deploy.export import trace
from lessen.operations import BFloat16, Half, Quantize, QuantizeWeights

TABLES, COUNT = (nn.Embedding,), 300
STORED: dict[str, tuple[int, tuple[Operation, ...]]] = {
    "full": (32, ()),
    "Half": (16, (Half(),)),
    "BFloat16": (16, (Half(kind=BFloat16()),)),
    "int8": (8, (Quantize(),)),
    "4 bits": (4, (QuantizeWeights(bits=4, group=16, where=TABLES),)),
    "2 bits, Half": (2, (QuantizeWeights(bits=2, group=16, where=TABLES), Half())),
}


class Placed(nn.Module):
    """Words and positions, of which there are more than a sentence has; `line` gives places with one axis.

    The exporter folds small tables by itself; this one is too large for that.
    """

    places: Tensor

    def __init__(self, *, line: bool) -> None:
        super().__init__()
        self.words, self.positions, self.head = nn.Embedding(90, 36), nn.Embedding(COUNT, 36), nn.Linear(36, 5)
        places = torch.arange(COUNT)
        self.register_buffer("places", places if line else places[None])

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.relu(self.words(tokens) + self.positions(self.places[..., 2 : 2 + tokens.shape[1]])))


@pytest.mark.parametrize("case", STORED)
def test_only_the_rows_that_are_read_are_stored(case: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    bits, operations = STORED[case]
    tokens = torch.randint(0, 90, (8, 6))
    context = Context(inputs=tokens[:2], calibration=[Batch(tokens, torch.arange(8))])
    model: nn.Module = Placed(line=case in {"Half", "4 bits"}).eval()
    for operation in operations:
        model = operation.plan(model, context).apply(model).eval()
    fixed = trace(model, tokens[:2], free=False)  # of a free length, all rows may be read
    file = export_onnx(model, tokens[:2], tmp_path / "model.onnx", program=fixed)
    sizes = [len(tensor.raw_data) for tensor in onnx.load(file).graph.initializer]
    groups = 6 * 48 * bits // 8  # with a group of 16, rows are filled up
    assert {6 * 36 * bits // 8, groups} & set(sizes)
    assert not [
        size for size in sizes if size in {COUNT * 36 * bits // 8, COUNT * 48 * bits // 8, COUNT * 4, COUNT * 2, COUNT}
    ]
    with torch.no_grad():
        expected = model(tokens)
    atol = float(expected.abs().max()) * (0.02 if case == "int8" else 1e-5)
    assert torch.allclose(OnnxRuntime().load(file, threads=1)(tokens), expected, atol=atol)
    pytest.importorskip("openvino")
    xml = export_openvino(file, tmp_path / "model.xml")
    assert torch.allclose(OpenVino().load(xml, threads=1)(tokens), expected, atol=atol)


class Shared(nn.Module):
    """A table that is read at known places and at others."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(70, 36)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.table(tokens) + self.table(torch.arange(6))


def test_a_table_that_is_read_elsewhere_is_stored_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, tokens = Shared().eval(), torch.randint(0, 70, (8, 6))
    file = export_onnx(model, tokens[:2], tmp_path / "model.onnx")
    numbers = [len(tensor.raw_data) // 4 for tensor in onnx.load(file).graph.initializer]
    assert 70 * 36 in numbers
    with torch.no_grad():
        assert torch.equal(OnnxRuntime().load(file, threads=1)(tokens), model(tokens))
