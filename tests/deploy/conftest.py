"""One small residual network, its quantized twin and their files, written once for all tests of the folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lessen.core import Context, Data
from lessen.core.data import batches
from lessen.data import Digits
from lessen.deploy import export_onnx
from lessen.operations.quantize import Quantize
from lessen.zoo import residual


@dataclass
class Case:
    """A network, its quantized twin, and their ONNX files."""

    model: nn.Module
    int8: nn.Module
    x: Tensor
    context: Context
    data: Data
    file: Path
    int8_file: Path


@pytest.fixture(scope="session")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    torch.manual_seed(0)
    data, model = Digits().load(), residual(width=8, depth=8)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(4):
        for batch in batches(data.train, size=64):
            assert batch.labels is not None
            optimizer.zero_grad()
            cross_entropy(model(batch.inputs), batch.labels).backward()
            optimizer.step()
    model.eval()
    context = Context(inputs=data.example(), calibration=data.calibration(256))
    int8 = Quantize().plan(model, context).apply(model)
    x = data.validation.fetch(torch.arange(96)).inputs
    folder = tmp_path_factory.mktemp("files")
    return Case(
        model=model,
        int8=int8,
        x=x,
        context=context,
        data=data,
        file=export_onnx(model, x[:1], folder / "model.onnx"),
        int8_file=export_onnx(int8, x[:1], folder / "model.int8.onnx"),
    )
