"""Scales that move between layers: the function stays, the ranges are what they should be, and the rest is named."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.core.errors import PlanError
from lessen.operations import Equalize, PruneWeights, Quantize, Smooth
from lessen.operations.parts.values import without_values
from lessen.operations.quantize import MinMax
from lessen.operations.rescale.equalize import equalizing_scale, ranges
from lessen.operations.rescale.rescale import (
    Link,
    divide_outputs,
    find_links,
    input_ranges,
    move,
    multiply_inputs,
    output_ranges,
)
from lessen.surgery.calls import trace
from lessen.surgery.fold import fold_batchnorm
from lessen.surgery.taps import Tap, capture
from lessen.testing import EXAMPLES, Example
from lessen.zoo import transformer


class Chain(nn.Module):
    """All that scales between layers, and some that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.depthwise, self.pool = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.MaxPool2d(2)
        self.grouped = nn.Conv2d(8, 6, 3, padding=1, groups=2)
        self.clipped = nn.Conv2d(6, 6, 1)
        self.hidden, self.gated, self.head = nn.Linear(24, 10), nn.Linear(10, 7), nn.Linear(7, 5)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = F.relu(self.norm(self.first(x_NCHW)))
        out = F.leaky_relu(self.grouped(self.pool(F.relu(self.depthwise(out)))), 0.1)
        out = F.relu6(self.clipped(out))
        out = F.relu(self.hidden(F.adaptive_avg_pool2d(out, 2).flatten(1)))
        logits_NC: Tensor = self.head(F.gelu(self.gated(out)))
        return logits_NC


CHAIN = Example(Chain, (3, 8, 8))


def uneven() -> nn.Module:
    """A network whose channels differ a hundredfold."""
    model = CHAIN.build()
    with torch.no_grad():
        for name in ("depthwise", "grouped", "hidden"):
            layer = model.get_submodule(name)
            layer.weight.mul_(torch.logspace(-1, 1, len(layer.weight)).reshape(-1, *[1] * (layer.weight.ndim - 1)))
    return model


def test_pairs_are_what_scales_and_the_others_are_named() -> None:
    plan = Equalize().plan(uneven(), CHAIN.context())
    assert plan.links == {
        "first": ("depthwise",),
        "depthwise": ("grouped",),
        "grouped": ("clipped",),
        "hidden": ("gated",),
    }
    assert "relu6 follows it" in plan.left["clipped"]
    assert "gelu follows it" in plan.left["gated"]
    assert plan.folds == (("first", "norm"),)


def test_the_function_stays_and_the_ranges_meet() -> None:
    model, inputs = uneven(), CHAIN.inputs()
    plan = Equalize().plan(model, CHAIN.context())
    equal = plan.apply(model)
    with torch.no_grad():
        outputs = model(inputs)
        assert float((equal(inputs) - outputs).abs().max()) <= 1e-5 * float(outputs.abs().max())
    for first, then in plan.links.items():
        one, other = ranges(equal, Link(first, then))
        assert torch.allclose(one, other, rtol=1e-3), first
    one, other = ranges(fold_batchnorm(model, inputs), Link("depthwise", ("grouped",)))
    assert not torch.allclose(one, other, rtol=1e-3)


def test_a_scale_on_the_wrong_channels_would_be_seen() -> None:
    """The planted error: what is divided in one order is multiplied in another."""
    model, inputs = uneven().double(), CHAIN.inputs(dtype=torch.float64)
    outputs, scale = model(inputs), torch.linspace(0.5, 2, 8, dtype=torch.float64)
    with torch.no_grad():
        divide_outputs(model.depthwise, scale)  # type: ignore[arg-type]
        multiply_inputs(model.grouped, scale.flip(0))  # type: ignore[arg-type]
        assert float((model(inputs) - outputs).abs().max()) > 1e-3
        multiply_inputs(model.grouped, scale / scale.flip(0))  # type: ignore[arg-type]
        assert float((model(inputs) - outputs).abs().max()) < 1e-12


def test_a_clip_between_is_not_proven() -> None:
    """Were ReLU6 taken for what scales, the proof in float64 would say no."""
    model, inputs = uneven().double(), 20 * CHAIN.inputs(dtype=torch.float64)
    outputs = model(inputs)
    with torch.no_grad():
        move(model, Link("clipped", ("hidden",)), torch.linspace(0.5, 2, 6, dtype=torch.float64))
        assert float((model(inputs) - outputs).abs().max()) > 1e-3


def test_ranges_are_those_of_a_slow_loop() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 4, 3, groups=2).requires_grad_(False)
    read = [
        max(float(layer.weight[o, c % 3].abs().max()) for o in range(2 * (c // 3), 2 * (c // 3) + 2)) for c in range(6)
    ]
    assert input_ranges(layer).tolist() == pytest.approx(read)
    assert output_ranges(layer).tolist() == pytest.approx([float(layer.weight[o].abs().max()) for o in range(4)])
    assert input_ranges(layer).tolist() != pytest.approx(sorted(read))


def test_a_channel_that_is_dead_on_one_side_keeps_its_scale() -> None:
    found = equalizing_scale(torch.tensor([0.0, 2.0, 8.0]), torch.tensor([1.0, 0.0, 2.0]))
    assert found.tolist() == [1, 1, 2]


def test_equal_ranges_make_one_step_for_all_channels_do() -> None:
    inputs, context = CHAIN.inputs(64), CHAIN.context()
    model = fold_batchnorm(CHAIN.build(), inputs)
    for link in (Link("first", ("depthwise",)), Link("depthwise", ("grouped",))):
        move(model, link, torch.logspace(-1.5, 1.5, 8))
    equal = Equalize().plan(model, context).apply(model)

    def error(network: nn.Module) -> float:
        """With one step for a whole layer, as where cross-layer equalisation comes from."""
        own = fold_batchnorm(network, inputs)
        with torch.no_grad():
            for layer in own.modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    step = layer.weight.abs().max() / 127
                    layer.weight.copy_((layer.weight / step).round() * step)
            return float((own(inputs) - model(inputs)).square().mean())

    assert error(equal) < 0.2 * error(model)


def test_zeros_stay_under_their_masks() -> None:
    once = PruneWeights(keep=0.4).plan(uneven(), CHAIN.context()).apply(uneven())
    twice = Equalize().plan(once, CHAIN.context()).apply(once)
    for name in ("depthwise", "grouped", "hidden"):
        assert torch.equal(twice.get_submodule(name).weight == 0, once.get_submodule(name).weight == 0)
    assert torch.allclose(twice(CHAIN.inputs()), once(CHAIN.inputs()), rtol=1e-4, atol=1e-5)


def test_values_are_those_of_the_plan() -> None:
    plan = without_values(Equalize().plan(uneven(), CHAIN.context()))
    with pytest.raises(PlanError, match="weights next to it"):
        plan.apply(uneven())
    with pytest.raises(PlanError, match="does not belong"):
        plan.apply(EXAMPLES["perceptron"].build(), values=False)


# Smooth

SMALL = Example(lambda: transformer(dim=16, depth=1, heads=2, image=8, patch=4), (1, 8, 8), 10)


def outliers() -> nn.Module:
    """A transformer with two channels that are thirty times as large as the others behind its normalisations."""
    model = SMALL.build()
    with torch.no_grad():
        for norm, layers in (("norm1", ("query", "key", "value")), ("norm2", ("expand",))):
            block = model.blocks[0]  # type: ignore[index]
            getattr(block, norm).weight[:2] *= 30
            for name in layers:
                getattr(block.attention if norm == "norm1" else block, name).weight[:, :2] /= 30
    return model


def test_outliers_move_into_the_weights_and_the_function_stays() -> None:
    model, inputs = outliers(), SMALL.inputs()
    plan = Smooth().plan(model, SMALL.context())
    names = {name: tuple(path.rpartition(".")[2] for path in then) for name, then in plan.links.items()}
    assert names["blocks.0.norm1"] == ("query", "key", "value")
    assert names["blocks.0.norm2"] == ("expand",)
    smooth = plan.apply(model)
    with torch.no_grad():
        outputs = model(inputs)
        assert float((smooth(inputs) - outputs).abs().max()) <= 1e-5 * float(outputs.abs().max())
    for before, after in plan.spread.values():
        assert after < before
    block = smooth.blocks[0]  # type: ignore[index]
    assert float((block.norm1.weight[:2].abs().min() / block.norm1.weight[2:].abs().max()).detach()) < 10


def test_the_scale_is_the_papers() -> None:
    model, context = outliers().requires_grad_(False), SMALL.context()
    for strength in (0.5, 0.8):
        smooth = Smooth(strength=strength).plan(model, context).apply(model)
        norm = Tap(path="blocks.0.norm2")
        with capture(model, [norm]) as seen, torch.no_grad():
            model(context.calibration[0].inputs)
        block = model.blocks[0]  # type: ignore[index]
        values = [float(seen[norm][..., c].abs().max()) for c in range(16)]
        weights = [float(block.expand.weight[:, c].abs().max()) for c in range(16)]
        expected = [x**strength / w ** (1 - strength) for x, w in zip(values, weights, strict=True)]
        found = block.norm2.weight / smooth.blocks[0].norm2.weight  # type: ignore[index]
        assert found.tolist() == pytest.approx(expected, rel=1e-3)
        assert found.tolist() != pytest.approx([1 / e for e in expected], rel=1e-3)


def test_smooth_activations_lose_less_when_they_are_quantized() -> None:
    model, context, inputs = outliers(), SMALL.context(), SMALL.inputs(64)
    quantize, outputs = Quantize(bits=5, weight_bits=8, observer=MinMax()), outliers()(inputs)

    def error(network: nn.Module) -> float:
        with torch.no_grad():
            return float((quantize.plan(network, context).apply(network)(inputs) - outputs).square().mean())

    assert error(Smooth().plan(model, context).apply(model)) < 0.7 * error(model)


def test_a_normalisation_that_a_sum_reads_is_left_alone() -> None:
    example = EXAMPLES["attention"]
    plan = Smooth().plan(example.build(), dataclasses.replace(example.context()))
    assert not plan.links
    with pytest.raises(PlanError, match="calibration"):
        Smooth().plan(example.build(), Context(inputs=example.inputs()))


def test_links_end_where_channels_meet_others() -> None:
    class Meets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(12, 12), nn.Linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            out = self.a(x)
            return self.b(out) + out

    model = Meets()
    found = find_links(model, trace(model, torch.randn(4, 12)), frozenset({"linear"}))
    assert not found.found
    assert "add follows it" in found.left["a"]
    plan = Equalize().plan(
        model, Context(inputs=torch.randn(4, 12), calibration=[Batch(torch.randn(4, 12), torch.arange(4))])
    )
    assert plan.values is None
    assert torch.equal(plan.apply(model)(torch.ones(2, 12)), model(torch.ones(2, 12)))
