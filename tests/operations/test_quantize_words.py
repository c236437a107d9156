"""Networks that are given numbers of words: their layers are found, exported, and computed in whole numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, Operation
from lessen.deploy import OnnxRuntime, export_onnx, read_kernels
from lessen.operations import Equalize, Quantize, QuantizeDynamic, Smooth


class Words(nn.Module):
    """Numbers of words (N, L) and a mask of whole numbers (N, L) to logits (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(50, 16), nn.LayerNorm(16)
        self.inner, self.outer, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        hidden = self.table(words)
        hidden = hidden + self.outer(torch.relu(self.inner(self.norm(hidden))))
        weight = mask[:, :, None].to(hidden.dtype)
        logits: Tensor = self.head((hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0))
        return logits


def sentences(count: int, seed: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 50, (count, 6), generator=draw)
    return words, (torch.arange(6) < torch.randint(1, 7, (count, 1), generator=draw)).long()


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Words().eval()


CONTEXT = Context(inputs=sentences(2, 0), calibration=[Batch(sentences(32, 1), torch.arange(32))])


@pytest.mark.parametrize(
    ("operation", "integer"),
    [
        (Quantize(weight_bits=8), {"MatMulInteger", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}),
        (QuantizeDynamic(weight_bits=8), {"DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"}),
    ],
    ids=["static", "dynamic"],
)
def test_layers_are_integer_and_the_file_says_what_the_network_says(
    model: nn.Module, operation: Operation, integer: set[str], tmp_path: Path
) -> None:
    plan = operation.plan(model, CONTEXT)
    assert set(plan.weights) == {"inner", "outer", "head"}
    small, inputs = plan.apply(model).eval(), sentences(16, 2)
    with torch.no_grad():
        said, whole = small(*inputs), model(*inputs)
    assert 0 < float((said - whole).norm() / whole.norm()) < 0.03
    path, runtime = export_onnx(small, inputs, tmp_path / "model.onnx"), OnnxRuntime()
    kernels = read_kernels(runtime, path, inputs)
    assert sum(count for name, count in kernels.counts.items() if name in integer) == 3, kernels.counts
    found = runtime.load(path, threads=1)(inputs)
    assert torch.allclose(found, said, atol=float(whole.std()) / 20)


@pytest.mark.parametrize("operation", [Equalize(), Smooth()], ids=["equalize", "smooth"])
def test_scales_move_and_the_function_stays(model: nn.Module, operation: Operation) -> None:
    plan = operation.plan(model, CONTEXT)
    assert plan.links
    new, inputs = plan.apply(model), sentences(16, 2)
    with torch.no_grad():
        assert torch.allclose(new(*inputs), model(*inputs), atol=1e-6)
        assert not torch.equal(new.inner.weight, model.inner.weight)
