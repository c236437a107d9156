"""Bits for each layer: what each would lose against slow measurements, and the choice against all choices."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Context
from lessen.core.errors import PlanError, SettingError
from lessen.operations.quantize import FisherError, Mixed, OutputDivergence, Quantize, SquaredError
from lessen.operations.quantize.fake import quantize_weight
from lessen.operations.quantize.mixed import distance, rounder
from lessen.testing import EXAMPLES

EXAMPLE = EXAMPLES["perceptron"]
OPTIONS = (2, 4, 8)
LAYERS = ("first", "last")


@pytest.fixture(scope="module")
def context() -> Context:
    return EXAMPLE.context()


def with_layer(path: str, bits: int) -> nn.Module:
    """The network with one layer's weights on their grid."""
    model = EXAMPLE.build()
    layer = model.get_submodule(path)
    with torch.no_grad():
        layer.weight.copy_(quantize_weight(layer.weight, limit=2 ** (bits - 1) - 1, axis=0))  # type: ignore[union-attr,operator]
    return model


def slow_divergence(path: str, bits: int, x: Tensor) -> float:
    with torch.no_grad():
        full, other = EXAMPLE.build()(x).double().softmax(1), with_layer(path, bits)(x).double().softmax(1)
    rows = [
        sum(float(p) * np.log(float(p) / float(q)) for p, q in zip(*pair, strict=True))
        for pair in zip(full, other, strict=True)
    ]
    return float(np.mean(rows))


def test_divergence_is_measured_with_one_layer_rounded(context: Context) -> None:
    found = OutputDivergence().losses(EXAMPLE.build(), LAYERS, OPTIONS, rounder(None), context)
    x = context.calibration[0].inputs
    assert isinstance(x, Tensor)
    for path in LAYERS:
        assert found[path] == pytest.approx([slow_divergence(path, bits, x) for bits in OPTIONS], rel=1e-3, abs=1e-9)
        assert found[path][0] > found[path][1] > found[path][2]
    assert found["first"] != pytest.approx(found["last"], rel=1e-3)  # the twin: the other layer's


def test_fisher_is_the_squared_product_of_slope_and_change(context: Context) -> None:
    model, batch = EXAMPLE.build(), context.calibration[0]
    found = FisherError().losses(model, LAYERS, OPTIONS, rounder(None), context)
    assert context.loss is not None
    for path in LAYERS:
        totals, plain = [], []
        for bits in OPTIONS:
            per_example, unweighted = [], []
            for x, label in zip(batch.inputs, batch.labels, strict=True):  # type: ignore[arg-type]
                kept: list[Tensor] = []
                hook = model.get_submodule(path).register_forward_hook(
                    lambda module, args, out, kept=kept: kept.append(out)
                )
                slope = torch.autograd.grad(context.loss(model(x[None]), label[None]).sum(), kept[0])[0]
                new: list[Tensor] = []
                hook.remove()
                hook = (
                    (other := with_layer(path, bits))
                    .get_submodule(path)
                    .register_forward_hook(lambda module, args, out, new=new: new.append(out))
                )
                # The layer is given what it is given in full: nothing before it is rounded.
                other(x[None])
                hook.remove()
                change = (new[0] - kept[0]).detach()
                per_example.append(float((slope * change).square().sum()))
                unweighted.append(float(change.square().sum()))
            totals.append(np.mean(per_example))
            plain.append(np.mean(unweighted))
        assert found[path] == pytest.approx(totals, rel=1e-3)
        assert found[path] != pytest.approx(plain, rel=1e-3)


def test_the_choice_is_the_best_of_all() -> None:
    random = np.random.default_rng(0)
    mixed = Mixed(average=4.0, options=(2, 3, 4, 8))
    sizes = {name: int(size) for name, size in zip("abcde", random.integers(10, 200, 5), strict=True)}
    better = 0
    for _ in range(10):
        losses = {name: sorted(random.exponential(1, 4), reverse=True) for name in sizes}
        found = mixed.assign(losses, sizes)
        budget = 4.0 * sum(sizes.values())

        def loss(bits: tuple[int, ...], losses: dict[str, list[float]] = losses) -> float:
            return sum(losses[name][mixed.options.index(b)] for name, b in zip(sizes, bits, strict=True))

        every = [
            bits
            for bits in itertools.product(mixed.options, repeat=5)
            if sum(b * sizes[name] for name, b in zip(sizes, bits, strict=True)) <= budget
        ]
        assert sum(found[name] * sizes[name] for name in sizes) <= budget
        assert loss(tuple(found.values())) == pytest.approx(min(map(loss, every)))
        better += loss((4,) * 5) > loss(tuple(found.values()))
    assert better >= 4  # the twin: the same for all is not it


class Lopsided(nn.Module):
    """One layer whose weights are spread over decades, and a large one whose are not."""

    def __init__(self) -> None:
        super().__init__()
        self.hard, self.easy = nn.Linear(12, 16), nn.Linear(16, 40)
        self.head = nn.Linear(40, 5)
        with torch.no_grad():
            self.hard.weight[:, 0] *= 12

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.relu(self.easy(F.relu(self.hard(x)))))
        return out


@pytest.mark.parametrize("sensitivity", [OutputDivergence(), FisherError()])
def test_layers_that_need_more_get_more_and_less_is_lost(sensitivity: object, context: Context) -> None:
    torch.manual_seed(0)
    model, x = Lopsided().eval(), context.calibration[0].inputs
    before = copy.deepcopy(model.state_dict())
    mixed = Mixed(average=4.0, options=(2, 3, 4, 5, 6, 8), sensitivity=sensitivity)
    plan = Quantize(weight_bits=mixed, weight_observer=SquaredError()).plan(model, context)
    sizes = {path: model.get_submodule(path).weight.numel() for path in plan.weights}  # type: ignore[union-attr,operator]
    assert sum(bits * sizes[path] for path, bits in plan.weights.items()) <= 4 * sum(sizes.values())
    assert len(set(plan.weights.values())) > 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def lost(quantize: Quantize) -> float:
        with torch.no_grad():
            return float(distance(model(x), quantize.plan(model, context).apply(model)(x)).mean())

    same = Quantize(weight_bits=4, weight_observer=SquaredError())
    assert lost(Quantize(weight_bits=mixed, weight_observer=SquaredError())) < lost(same)
    small = plan.apply(model)
    for path, bits in plan.weights.items():
        assert small.grids.of_weights(path).limit == 2 ** (bits - 1) - 1  # type: ignore[union-attr,operator]


def test_what_cannot_be_chosen_is_said(context: Context) -> None:
    with pytest.raises(PlanError, match="cheapest"):
        Quantize(weight_bits=Mixed(average=2.0, options=(3, 4))).plan(EXAMPLE.build(), context)
    with pytest.raises(PlanError, match="OutputDivergence"):
        Quantize(weight_bits=Mixed(sensitivity=FisherError())).plan(
            EXAMPLE.build(), dataclasses.replace(context, loss=None)
        )
    with pytest.raises(SettingError, match="options"):
        Mixed(options=(16,))
    vectors = torch.randn(4, 3, 5)
    assert torch.allclose(distance(vectors, vectors + 1), torch.full((4,), 15.0, dtype=torch.float64))
