"""Corrected biases: the mean of every channel is what it was, and the correction is what the papers write."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.deploy import OnnxRuntime, export_onnx, read_kernels
from lessen.operations.parts.values import read_value
from lessen.operations.quantize import AdaRound, MinMax, Quantize, Quantized, biases, operation
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
    batches = [batch.inputs for batch in EXAMPLE.context().calibration]
    full = mean_outputs(fold_batchnorm(EXAMPLE.build(), EXAMPLE.inputs()), LAYERS, batches)
    found = mean_outputs(network, LAYERS, batches)
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


def one_by_one(model: nn.Module, context: Context, plan: Quantized, layers: tuple[str, ...]) -> dict[str, Tensor]:
    """The slow way, as the definition has it: for each layer the whole network over all batches, then its bias."""
    full, batches = fold_batchnorm(model, context.inputs), [batch.inputs for batch in context.calibration]
    work = plan.apply(model)
    with torch.no_grad():
        for path in LAYERS:
            work.get_submodule(path).bias.copy_(full.get_submodule(path).bias)
    wanted, found = mean_outputs(full, layers, batches), dict[str, Tensor]()
    for path in layers:
        layer = work.get_submodule(path)
        missing = wanted[path] - mean_outputs(work, [path], batches)[path]
        found[path] = (layer.bias.detach() + missing).float()
        with torch.no_grad():
            layer.bias.copy_(found[path])
    return found


def batched(*sizes: int, side: int = 8) -> list[Batch]:
    torch.manual_seed(1)
    return [Batch(torch.randn(size, 3, side, side), torch.arange(size)) for size in sizes]


def found_biases(plan: Quantized) -> dict[str, Tensor]:
    assert plan.values is not None
    return {path: read_value(plan.values[f"{path}.bias"]) for path in LAYERS}


def test_one_pass_gives_what_a_pass_for_each_layer_gives() -> None:
    model, context = EXAMPLE.build(), Context(inputs=EXAMPLE.inputs(), calibration=batched(16, 16, 5))
    plan = corrected(COARSE).plan(model, context)
    found, expected = found_biases(plan), one_by_one(model, context, plan, LAYERS)
    for path in LAYERS:
        assert torch.allclose(found[path], expected[path], atol=1e-5), path
    # Planted: a layer that does not see what those before it give when corrected gets another bias.
    alone = one_by_one(model, context, plan, LAYERS[-1:])[LAYERS[-1]]
    assert not torch.allclose(alone, expected[LAYERS[-1]], atol=1e-3)


def test_a_deeper_network_takes_no_more_passes() -> None:
    """Four: for the layers whose bias it is, for how many examples fit, for the means wanted, and for correcting."""

    def passes(depth: int, *, correct: bool) -> int:
        torch.manual_seed(0)
        model, x = nn.Sequential(*[nn.Linear(4, 4) for _ in range(depth)]), torch.randn(16, 4)
        called: list[int] = []
        handle = model[0].register_forward_hook(lambda *_: called.append(1))
        try:
            Quantize(correct_biases=correct).plan(model, Context(inputs=x, calibration=[Batch(x, torch.arange(16))]))
        finally:
            handle.remove()
        return len(called)

    for depth in (2, 12):
        assert passes(depth, correct=True) == passes(depth, correct=False) + 4


def test_examples_of_one_shape_that_fit_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    model, alike, other = EXAMPLE.build(), batched(16, 16), batched(8, side=12)
    settings = corrected(Quantize(bits=8, weight_bits=3))

    def found(batches: list[Batch]) -> Tensor:
        context = Context(inputs=EXAMPLE.inputs(), calibration=batches)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(operation, "observe", lambda *args, **more: grids)  # ranges come from all of them
            return found_biases(settings.plan(model, context))["stem"]

    grids = settings.plan(model, Context(inputs=EXAMPLE.inputs(), calibration=alike)).edges
    assert torch.equal(found([other[0], *alike]), found(alike))
    assert not torch.equal(found(alike), found(alike[:1]))
    one = Batch(alike[0].inputs[:1], torch.arange(1))
    monkeypatch.setattr(biases, "_MEMORY", 1)  # one example fits, whatever it takes
    assert torch.allclose(found(alike), found([one]), atol=1e-6)


def test_the_file_has_the_biases(tmp_path: Path) -> None:
    small = corrected(COARSE).plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build())
    inputs = EXAMPLE.inputs(32)
    path = export_onnx(small, inputs[:1], tmp_path / "model.onnx")
    assert read_kernels(OnnxRuntime(), path, inputs).integer_share == 100
    said: Tensor = OnnxRuntime().load(path, threads=1)(inputs)
    expected = small(inputs).detach()
    assert float(F.mse_loss(said, expected) / expected.var()) < 0.01
