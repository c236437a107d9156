"""Corrected biases: the mean of every channel is what it was, and the correction is what the papers write."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, export_onnx, read_kernels
from lessen.operations.quantize import AdaRound, MinMax, Quantize
from lessen.operations.quantize.biases import mean_outputs
from lessen.operations.quantize.fake import fake_quantize
from lessen.surgery.fold import fold_batchnorm
from lessen.testing import EXAMPLES

COARSE = Quantize(bits=5, weight_bits=3, weight_observer=MinMax())
EXAMPLE = EXAMPLES["convolutions"]
LAYERS = ("stem", "inner", "depthwise", "head")


def corrected(quantize: Quantize) -> Quantize:
    return Quantize(
        bits=quantize.bits,
        weight_bits=quantize.weight_bits,
        weight_observer=quantize.weight_observer,
        rounding=quantize.rounding,
        correct_biases=True,
    )


def error_of_means(network: nn.Module) -> dict[str, float]:
    """For each layer the largest difference of a channel's mean, in units of the largest mean."""
    context = EXAMPLE.context()
    full = mean_outputs(fold_batchnorm(EXAMPLE.build(), EXAMPLE.inputs()), LAYERS, context)
    found = mean_outputs(network, LAYERS, context)
    return {path: float((found[path] - full[path]).abs().max() / full[path].abs().max()) for path in LAYERS}


@pytest.mark.parametrize("rounding", [None, AdaRound(steps=10)])
def test_no_mean_is_off_any_more(rounding: AdaRound | None) -> None:
    plain = Quantize(bits=5, weight_bits=3, weight_observer=MinMax(), rounding=rounding)
    plan = corrected(plain).plan(EXAMPLE.build(), EXAMPLE.context())
    assert plan.corrected == LAYERS
    after = error_of_means(plan.apply(EXAMPLE.build()))
    assert max(after.values()) < 1e-5, after
    before = error_of_means(plain.plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build()))
    assert min(before.values()) > 1e-3, before


def test_the_correction_is_the_mean_of_what_rounding_adds() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 4, bias=False)), torch.randn(64, 6) + 0.5
    plan = corrected(COARSE).plan(
        model, Context(inputs=x, calibration=[Batch(x[:16], torch.arange(16)), Batch(x[16:], torch.arange(48))])
    )
    small = plan.apply(model)
    scale, zero = plan.edges["input:0"]
    rounded = fake_quantize(x, torch.tensor(scale), torch.tensor(zero, dtype=torch.int32), low=0, high=31)
    weight = small.grids.of_weights("0").round(model[0].weight, 0)
    with torch.no_grad():
        expected = (x @ model[0].weight.T - rounded @ weight.T).mean(0)
        assert torch.allclose(small[0].bias, expected, atol=1e-6)
        # With the error of the weights alone, E[eps x], it is close, and not the same.
        alone = (x @ (model[0].weight - weight).T).mean(0)
        assert 0 < float((alone - expected).norm() / expected.norm()) < 0.5
    assert model[0].bias is None


def test_the_file_has_the_biases(tmp_path: Path) -> None:
    small = corrected(COARSE).plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build())
    inputs = EXAMPLE.inputs(32)
    path = export_onnx(small, inputs[:1], tmp_path / "model.onnx")
    assert read_kernels(OnnxRuntime(), path, inputs).integer_share == 100
    said: Tensor = OnnxRuntime().load(path, threads=1)(inputs)
    expected = small(inputs).detach()
    assert float(F.mse_loss(said, expected) / expected.var()) < 0.01
