"""Networks that are given numbers of words: their layers are found, exported, and computed in whole numbers."""

import dataclasses
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, Operation
from lessen.deploy import OnnxRuntime, export_onnx, read_kernels
from lessen.operations import Equalize, PruneWeights, Quantize, QuantizeDynamic, Smooth


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
        (Quantize(), {"MatMulInteger", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"}),
        (QuantizeDynamic(), {"DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat"}),
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


class PostNorm(nn.Module):
    """Attention and a feed-forward layer as BERT has them: normalisations give to the residual sum, too."""

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.table, self.first = nn.Embedding(50, width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.second, self.inner, self.outer = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)
        self.third, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        hidden = self.first(self.table(words))
        mixed = nn.functional.scaled_dot_product_attention(
            self.query(hidden)[:, None], self.key(hidden)[:, None], self.value(hidden)[:, None]
        )[:, 0]
        hidden = self.second(hidden + mixed)
        hidden = self.third(hidden + self.outer(nn.functional.gelu(self.inner(hidden))))
        weight = mask[:, :, None].to(hidden.dtype)
        logits: Tensor = self.head((hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0))
        return logits


def outlying() -> nn.Module:
    """Two channels of a normalisation and one behind the GELU are far larger than the others, and read with less."""
    torch.manual_seed(0)
    model = PostNorm().eval()
    with torch.no_grad():
        for norm, readers in ((model.first, (model.query, model.key, model.value)), (model.second, (model.inner,))):
            norm.weight[:2] *= 20
            for layer in readers:
                layer.weight[:, :2] /= 20
                layer.weight[:, 2:] *= 10
        model.inner.bias[3] += 100
        model.outer.weight[:, 3] /= 100
        model.outer.weight.mul_(10)
    return model


def test_a_post_norm_is_smoothed_by_a_multiplication_in_its_readers() -> None:
    model, inputs = outlying(), sentences(16, 2)
    plan = Smooth(strength=0.5, before=()).plan(model, CONTEXT)
    assert plan.scaled == {"first": ("query", "key", "value"), "second": ("inner",)}
    assert set(plan.left) == {"third"}
    assert any("multiplied before query, key, value" in row["edit"] for row in plan.describe())
    new = plan.apply(model)
    assert {name for name, _ in new.named_parameters()} == {name for name, _ in model.named_parameters()}
    with torch.no_grad():
        assert torch.allclose(new(*inputs), model(*inputs), atol=1e-5)
    # By hand: max(X) ** a / max(W) ** (1 - a), over all three weights that share the input.
    with torch.no_grad():
        largest = model.first(model.table(CONTEXT.calibration[0].inputs[0])).abs().flatten(0, 1).amax(0)
        weights = torch.stack([getattr(model, name).weight for name in ("query", "key", "value")]).abs().amax((0, 1))
        expected = (largest / weights).sqrt()
        expected = 1 / (1 / expected).half().float()  # inputs are multiplied by a number of 16 bits
        assert torch.allclose(1 / new.query.scale, expected, rtol=1e-5)
        assert torch.allclose(new.query.weight, model.query.weight * expected, rtol=1e-5)
    again = dataclasses.replace(plan, values=None).apply(model, values=False)
    again.load_state_dict(new.state_dict())
    with torch.no_grad():
        assert torch.equal(again(*inputs), new(*inputs))


def test_smoothing_a_post_norm_lowers_the_error_of_eight_bits_and_the_file_says_the_same(tmp_path: Path) -> None:
    model, inputs = outlying(), sentences(16, 2)

    def quantized(network: nn.Module) -> nn.Module:
        return Quantize(embedding_bits=None).plan(network, CONTEXT).apply(network).eval()

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            return float((network(*inputs) - model(*inputs)).square().mean())

    norms = quantized(Smooth(before=()).plan(model, CONTEXT).apply(model))
    everywhere = Smooth().plan(model, CONTEXT)
    assert everywhere.scaled["outer"] == ("outer",)
    small = quantized(everywhere.apply(model))
    assert error(norms) < 0.5 * error(quantized(model))
    assert error(small) < 0.8 * error(norms)
    path, runtime = export_onnx(small, inputs, tmp_path / "model.onnx"), OnnxRuntime()
    with torch.no_grad():
        said = small(*inputs)
    assert torch.allclose(runtime.load(path, threads=1)(inputs), said, atol=float(said.std()) / 20)
    # One multiplication and one grid for the three that read the same.
    nodes = [node.op_type for node in onnx.load(path).graph.node]
    assert nodes.count("QuantizeLinear") == len({"first", "second", "gelu", "head"}), nodes


def test_what_is_shared_or_masked_gets_no_multiplication() -> None:
    model = outlying()
    model.key = model.query
    plan = Smooth(before=()).plan(model, CONTEXT)
    assert plan.scaled == {"first": ("value",), "second": ("inner",)}
    pruned = PruneWeights(keep=0.5, where="query").plan(outlying(), CONTEXT).apply(outlying())
    assert Smooth().plan(pruned, CONTEXT).scaled["first"] == ("key", "value")
