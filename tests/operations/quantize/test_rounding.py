"""Learned rounding against every rounding there is, and what it is told to look at."""

import copy
import dataclasses
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.core.errors import DivergedError, PlanError
from lessen.core.training import ShortTraining
from lessen.engine import EngineTrainer
from lessen.operations import PruneWeights
from lessen.operations.quantize import AdaRound, Brecq, QDrop, Quantize, SquaredError, reconstruction
from lessen.operations.quantize.plan import Quantized
from lessen.operations.quantize.reconstruction import SoftWeight, _Problem, mixed
from lessen.operations.quantize.rounding import indecision, soft, soft_inverse
from lessen.operations.quantize.stepped import positive
from lessen.operations.quantize.units import ReconstructionUnit, units_of
from lessen.operations.quantize.visits import Visits
from lessen.operations.quantize.visits import slopes as slopes_of
from lessen.surgery.calls import trace
from lessen.surgery.forms.mask import mask_of
from lessen.surgery.taps import Tap, capture
from lessen.testing import EXAMPLES
from lessen.zoo import residual

LIMIT = 3  # of 3 bits


def perceptron() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4)).eval()


@pytest.fixture(scope="module")
def context() -> Context:
    torch.manual_seed(1)
    x = torch.randn(192, 8) @ torch.randn(8, 8) * 0.7 + 0.5
    batches = [
        Batch(x[:128], torch.arange(128), torch.arange(128) % 4),
        Batch(x[128:], torch.arange(128, 192), torch.arange(64) % 4),
    ]
    return Context(
        inputs=x[:2], calibration=batches, loss=lambda out, labels: F.cross_entropy(out, labels, reduction="none")
    )


@pytest.fixture(scope="module")
def plan(context: Context) -> Quantized:
    return Quantize(weight_bits=3, rounding=AdaRound()).plan(perceptron(), context)


def everything(context: Context) -> Tensor:
    return torch.cat([batch.inputs for batch in context.calibration])  # type: ignore[misc,arg-type]


def problem(plan: Quantized, context: Context, path: str) -> tuple[Tensor, Tensor, nn.Linear, Tensor]:
    """What a layer gets behind what was rounded before it, what it gave in full, the layer, its steps."""
    full, small, x = perceptron(), plan.apply(perceptron()), everything(context)
    with torch.no_grad():
        with capture(small, [Tap(path=path, side="input")]) as seen:
            small(x)
        given = seen[Tap(path=path, side="input")]
        with capture(full, [Tap(path=path)]) as seen:
            full(x)
        gave = seen[Tap(path=path)]
    layer = full.get_submodule(path)
    assert isinstance(layer, nn.Linear)
    return given, gave, layer, positive(small.grids.of_weights(path).step)


def errors(plan: Quantized, context: Context, path: str) -> Tensor:
    """For each row the error of every way to round it up or down, shape (rows, 2 ** inputs), behind the ReLU."""
    given, gave, layer, step = problem(plan, context, path)
    behind = torch.relu if path == "0" else torch.nn.Identity()
    ways = torch.tensor(list(itertools.product((0, 1), repeat=layer.in_features)))
    found = []
    for row in range(layer.out_features):
        below = (layer.weight[row] / step[row]).floor()
        weights = (below + ways).clamp(-LIMIT, LIMIT) * step[row]
        outputs = behind(given @ weights.T + layer.bias[row])
        found.append((outputs - behind(gave[:, row, None])).square().mean(0))
    return torch.stack(found).detach()


def error_of(weight: Tensor, plan: Quantized, context: Context, path: str) -> float:
    given, gave, layer, _ = problem(plan, context, path)
    behind = torch.relu if path == "0" else torch.nn.Identity()
    weight = weight.detach()
    return float((behind(given @ weight.T + layer.bias.detach()) - behind(gave)).square().mean(0).sum())


def rounded(plan: Quantized, path: str) -> Tensor:
    small = plan.apply(perceptron())
    grid = small.grids.of_weights(path)
    return grid.round(small.get_submodule(path).weight, 0).detach()


@pytest.mark.parametrize("path", ["0", "2"])
def test_up_or_down_is_nearly_the_best_of_all_ways(plan: Quantized, context: Context, path: str) -> None:
    best = float(errors(plan, context, path).amin(1).sum())
    _, _, layer, step = problem(plan, context, path)
    nearest = (layer.weight / step[:, None]).round().clamp(-LIMIT, LIMIT) * step[:, None]
    near, found = error_of(nearest, plan, context, path), error_of(rounded(plan, path), plan, context, path)
    assert best <= found * (1 + 1e-5)
    assert found <= best + 0.4 * (near - best), "it gains little of what can be gained"
    # The planted error: all the way up.
    up = (layer.weight / step[:, None]).ceil().clamp(-LIMIT, LIMIT) * step[:, None]
    assert error_of(up, plan, context, path) > near
    assert plan.rounded[path] == pytest.approx(100 * (1 - found / near), abs=2)


def test_every_weight_goes_to_one_of_its_two_neighbours(plan: Quantized) -> None:
    for path in ("0", "2"):
        layer, found = perceptron().get_submodule(path), rounded(plan, path)
        step = positive(plan.apply(perceptron()).grids.of_weights(path).step)[:, None]
        inside = layer.weight.abs() <= LIMIT * step
        assert bool((((found - layer.weight).abs() < step * 1.0001) | ~inside).all())
        assert torch.allclose(found / step, (found / step).round(), atol=1e-4)
        assert not torch.equal((layer.weight / step).round(), (found / step).round())


def test_at_the_end_everything_is_decided(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[float, list[Tensor]] = {}

    def spied(decided: float) -> None:
        hard = SoftWeight.hard
        monkeypatch.setattr(
            SoftWeight, "hard", lambda self: seen.setdefault(decided, []).append(soft(self.v.detach())) or hard(self)
        )
        Quantize(weight_bits=3, rounding=AdaRound(decided=decided, steps=250), exclude="2").plan(perceptron(), context)
        monkeypatch.undo()

    spied(32.0)
    spied(1e-3)
    undecided = {
        decided: float(indecision(torch.cat([h.flatten() for h in found]), power=2.0))
        for decided, found in seen.items()
    }
    assert undecided[32.0] < 0.03
    assert undecided[1e-3] > 0.1  # without the pull it stays in between


def test_soft_and_its_inverse() -> None:
    h = torch.linspace(0, 1, 11)
    assert torch.allclose(soft(soft_inverse(h)), h, atol=1e-6)


def problem_of(full: nn.Module, work: nn.Module, unit: ReconstructionUnit, context: Context) -> _Problem:
    rounded, whole = (Visits(model, [unit], context, changing=False) for model in (work, full))
    with rounded, whole:
        given, targets = rounded.arguments(unit), whole.outputs(unit)
    return _Problem(work, unit, AdaRound(), context, given=given, given_full=None, targets=targets)


def test_it_sees_what_the_layers_before_it_give_when_rounded(plan: Quantized, context: Context) -> None:
    full, work = perceptron(), plan.apply(perceptron()).requires_grad_(False)
    found = problem_of(full, work, ReconstructionUnit("2", ("2",)), context)
    given, gave, _, _ = problem(plan, context, "2")
    assert torch.equal(found.given[0][0], given)
    assert torch.allclose(found.targets[0], gave, atol=1e-6)
    with torch.no_grad():
        assert not torch.allclose(found.given[0][0], torch.relu(full[0](everything(context))), atol=1e-3)  # type: ignore[index,operator]


def test_the_error_of_a_unit_is_that_of_its_layer(plan: Quantized, context: Context) -> None:
    full, work = perceptron(), plan.apply(perceptron()).requires_grad_(False)
    unit = units_of(full, trace(full, context.inputs), ["0", "2"], AdaRound())
    assert unit == [ReconstructionUnit("0", ("0",), (0.0, None)), ReconstructionUnit("2", ("2",))]
    for each in unit:
        found = problem_of(full, work, each, context)
        weight = torch.randn_like(full.get_submodule(each.path).weight)
        assert found.whole({each.path: weight}) == pytest.approx(error_of(weight, plan, context, each.path), rel=1e-4)


class Low(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x)


def test_what_clamps_behind_a_layer_is_seen() -> None:
    ends = {
        "relu": (nn.ReLU(), (0.0, None)),
        "relu6": (nn.ReLU6(), (0.0, 6.0)),
        "function": (Low(), (0.0, 6.0)),
        "own": (nn.Hardtanh(-2.0, 3.0), (-2.0, 3.0)),
        "smooth": (nn.GELU(), (None, None)),
    }
    for name, (module, clip) in ends.items():
        model = nn.Sequential(nn.Linear(8, 6), module, nn.Linear(6, 4)).eval()
        units = units_of(model, trace(model, torch.randn(2, 8)), ["0", "2"], AdaRound())
        assert [unit.clip for unit in units] == [clip, (None, None)], name


class Padded(nn.Conv2d):
    """Pads by itself, as networks that come from TensorFlow do."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(F.pad(x, (0, 1, 0, 1)), self.weight, self.bias)


class Standardised(nn.Conv2d):
    """Multiplies by something that it makes of its weight, and has a bias that goes in at half."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return self._conv_forward(x, weight, self.bias / 2)  # type: ignore[operator]


def test_a_layer_of_another_class_is_learned_if_it_multiplies_by_its_weight(images: Context) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        Padded(1, 4, 3), nn.ReLU6(), Standardised(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    ).eval()
    model(images.inputs)
    ways = dict[str, Any](weight_bits=3, rounding=AdaRound(steps=100), correct_biases=True)
    plan = Quantize(**ways).plan(model, images)
    assert set(plan.left) == {"2"}
    assert "changes its weight before use" in plan.left["2"]
    assert set(plan.rounded) == {"0", "5"}
    assert plan.corrected == ("0", "5")
    outputs = model(images.calibration[0].inputs)
    errors = [
        float((each.apply(model)(images.calibration[0].inputs) - outputs).detach().square().mean())
        for each in (plan, Quantize(weight_bits=3, weight_observer=SquaredError()).plan(model, images))
    ]
    assert errors[0] < errors[1]


# Blocks


def test_blocks_are_where_branches_are_joined() -> None:
    model = residual(width=4, depth=8).eval()
    seen = trace(model, torch.randn(2, 1, 8, 8))
    layers = [path for path, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    found = {unit.path: unit.layers for unit in units_of(model, seen, layers, Brecq())}
    assert found == {
        "stem": ("stem",),
        "layer1.0": ("layer1.0.conv1", "layer1.0.conv2"),
        "layer2.0": ("layer2.0.conv1", "layer2.0.conv2", "layer2.0.shortcut.0"),
        "layer3.0": ("layer3.0.conv1", "layer3.0.conv2", "layer3.0.shortcut.0"),
        "head": ("head",),
    }
    assert [unit.path for unit in units_of(model, seen, layers, AdaRound())] == layers
    named = units_of(model, seen, layers, Brecq(blocks="layer?"))
    assert [unit.path for unit in named] == ["stem", "layer1", "layer2", "layer3", "head"]


@pytest.fixture(scope="module")
def images() -> Context:
    torch.manual_seed(0)
    x = torch.randn(64, 1, 8, 8)
    return Context(
        inputs=x[:2],
        calibration=[Batch(x, torch.arange(64), torch.arange(64) % 10)],
        loss=lambda out, labels: F.cross_entropy(out, labels, reduction="none"),
    )


def network() -> nn.Module:
    torch.manual_seed(0)
    model = residual(width=4, depth=8)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(64, 1, 8, 8))
    return model.eval()


def test_a_block_is_learned_as_one_and_never_worse_than_nearest(images: Context) -> None:
    outputs = network()(images.calibration[0].inputs)
    error = {}
    for rounding in (None, Brecq(steps=60, fisher=False)):
        plan = Quantize(
            weight_bits=3, weight_observer=SquaredError(), rounding=rounding, exclude=("stem", "head")
        ).plan(network(), images)
        with torch.no_grad():
            error[type(rounding)] = float(
                (plan.apply(network())(images.calibration[0].inputs) - outputs).square().mean()
            )
    assert plan.rounded["layer1.0.conv1"] == plan.rounded["layer1.0.conv2"] > 10
    assert error[Brecq] < 0.9 * error[type(None)]


def test_fisher_weights_are_squared_slopes_of_the_loss(context: Context) -> None:
    full = perceptron().double()
    double = dataclasses.replace(
        context,
        inputs=context.inputs.double(),  # type: ignore[union-attr]
        calibration=[Batch(b.inputs.double(), b.index, b.labels) for b in context.calibration],  # type: ignore[union-attr]
    )
    [(_, weights)] = slopes_of(full, [ReconstructionUnit("0", ("0",))], double)
    batch, epsilon = double.calibration[0], 1e-5

    def loss(moved: float, unit: int) -> Tensor:
        hidden = full[0](batch.inputs)  # type: ignore[index,operator]
        hidden[:, unit] += moved
        return F.cross_entropy(full[2](torch.relu(hidden)), batch.labels, reduction="none")  # type: ignore[index,operator]

    with torch.no_grad():
        slopes = torch.stack([(loss(epsilon, unit) - loss(-epsilon, unit)) / (2 * epsilon) for unit in range(6)], 1)
    assert torch.allclose(weights[0][:128], slopes.square(), rtol=1e-3, atol=1e-9)
    assert not torch.allclose(weights[0][:128], slopes.abs(), rtol=1e-3, atol=1e-9)


def test_weights_are_damped_by_a_multiple_of_their_mean() -> None:
    sure = [torch.tensor([0.0, 0.0, 8.0]), torch.tensor([0.0])]  # one example in four is felt
    assert [each.tolist() for each in reconstruction.damped(sure, 1.0)] == [[1.0, 1.0, 5.0], [1.0]]
    assert [each.tolist() for each in reconstruction.damped(sure, 0.0)] == [[0.0, 0.0, 4.0], [0.0]]
    assert [each.tolist() for each in reconstruction.damped([torch.zeros(2)], 0.0)] == [[1.0, 1.0]]


def test_fisher_needs_a_loss_and_labels(context: Context) -> None:
    without = dataclasses.replace(context, loss=None)
    with pytest.raises(PlanError, match="fisher=False"):
        Quantize(rounding=Brecq()).plan(perceptron(), without)
    Quantize(weight_bits=3, rounding=Brecq(fisher=False, steps=2)).plan(perceptron(), without)


def test_dropping_nothing_is_learning_by_blocks(context: Context) -> None:
    def values(rounding: Brecq | QDrop | AdaRound) -> dict[str, str] | None:
        return Quantize(bits=3, weight_bits=3, rounding=rounding).plan(perceptron(), context).values

    block = values(Brecq(steps=40, fisher=False))
    assert values(QDrop(steps=40, drop=0.0)) == block
    assert values(AdaRound(steps=40)) == block  # there are no blocks: each layer is one
    assert values(QDrop(steps=40, drop=0.5)) != block


def test_dropping_passes_values_as_they_are_at_random() -> None:
    generator = torch.Generator().manual_seed(0)
    values, grid = torch.randn(1000, 10), torch.zeros(1000, 10)
    found = mixed((values, None), (grid, None), lambda like: torch.rand(like.shape, generator=generator) < 0.3)[0]
    kept = found == values
    assert bool((kept | (found == 0)).all())
    assert 0.28 < float(kept.double().mean()) < 0.32


# What earlier operations did


def test_pruned_weights_stay_pruned(context: Context) -> None:
    once = PruneWeights(keep=0.5).plan(perceptron(), context).apply(perceptron())
    plan = Quantize(weight_bits=3, rounding=AdaRound(steps=150)).plan(once, context)
    twice = plan.apply(once)
    for path in ("0", "2"):
        layer = twice.get_submodule(path)
        mask = mask_of(layer, "weight")
        assert mask is not None
        assert not bool(layer.weight[~mask.kept].any())  # type: ignore[index,union-attr]
    assert max(plan.rounded.values()) > 0


def test_what_cannot_be_learned_is_named() -> None:
    example = EXAMPLES["shared"]
    plan = Quantize(weight_bits=3, rounding=AdaRound(steps=5)).plan(example.build(), example.context())
    assert set(plan.left) == {"first", "tied", "other"}
    assert "called 2 times" in plan.left["first"]
    assert "another layer" in plan.left["tied"]
    assert set(plan.rounded) == {"enter", "head"}
    assert {row["module"] for row in plan.describe()} >= {"first", "tied"}


def test_planning_changes_neither_the_network_nor_the_generator(context: Context) -> None:
    model, state = perceptron(), torch.get_rng_state()
    before = copy.deepcopy(model.state_dict())
    first = Quantize(weight_bits=3, rounding=QDrop(steps=5)).plan(model, context)
    assert first == Quantize(weight_bits=3, rounding=QDrop(steps=5)).plan(model, context)
    assert torch.equal(state, torch.get_rng_state()) or torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Stumbling:
    """Trains as the engine does, but for one unit, whose loss it finds not finite."""

    def train(self, training: ShortTraining) -> None:
        if training.subject == "the rounding of 0":
            raise DivergedError(f"Training {training.subject}, step 3: the loss is not a finite number.")
        EngineTrainer().train(training)


def test_a_unit_that_cannot_be_learned_is_rounded_to_the_nearest_and_named(context: Context) -> None:
    small = Quantize(weight_bits=3, rounding=AdaRound())
    found = small.plan(perceptron(), dataclasses.replace(context, trainer=Stumbling()))
    assert found.left == {"0": "Training the rounding of 0, step 3: the loss is not a finite number."}
    assert [path for path in ("0", "2") if f"{path}.weight" in found.values] == ["2"]
    nearest = dataclasses.replace(small, rounding=None, weight_observer=SquaredError()).plan(perceptron(), context)
    assert torch.equal(rounded(found, "0"), rounded(nearest, "0"))
    assert not torch.equal(rounded(found, "2"), rounded(nearest, "2"))
