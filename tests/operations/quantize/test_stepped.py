"""Grids with steps of their own: how they are chosen, what their gradients are, how they train and where they go."""

import copy
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, Data
from lessen.core.data import ArrayExamples
from lessen.core.errors import PlanError
from lessen.deploy import OnnxRuntime, export_onnx, export_pt2, read_kernels
from lessen.engine import run
from lessen.graph import SGD, Adam, Edge, Fit, Graph, Network, Stage
from lessen.knowledge import SoftTargets
from lessen.operations import LowRank, PruneChannels, PruneWeights
from lessen.operations.parts.values import without_values
from lessen.operations.quantize import (
    Entropy,
    LearnedClip,
    LearnedStep,
    LearnedStepAndOffset,
    MeanMagnitude,
    MinMax,
    Quantize,
    SquaredError,
    observers,
)
from lessen.operations.quantize.fake import weight_scale
from lessen.operations.quantize.grids import OffsetGrid, StepGrid, WeightGrid
from lessen.operations.quantize.observers import Seen, lost_information
from lessen.operations.quantize.observing import weight_steps
from lessen.operations.quantize.stepped import (
    quantize_by_clip,
    quantize_by_offset,
    quantize_by_step,
    quantize_weight_by,
    step_gradient,
)
from lessen.surgery.decay import OwnDecay
from lessen.testing import EXAMPLES

EXAMPLE = EXAMPLES["convolutions"]
NARROW = 0.1
"""How far a 4-bit file may be from its network: its biases are whole numbers of steps, which are wide."""


# Choosing steps


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_rounded_by_their_steps_as_by_pytorch_itself(axis: int) -> None:
    torch.manual_seed(0)
    weight, step = torch.randn(6, 5, 3), 2.0 ** -torch.arange(2, 8).float()[: 6 - axis]
    zeros = torch.zeros_like(step, dtype=torch.int32)
    expected = torch.fake_quantize_per_channel_affine(weight, step, zeros, axis, -7, 7)
    assert torch.equal(quantize_weight_by(weight, step, limit=7, axis=axis), expected)
    assert not torch.equal(quantize_weight_by(weight, step.flip(0), limit=7, axis=axis), expected)


def test_the_largest_weight_gives_the_step_that_would_follow_it() -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 5, 3, 3)
    found = weight_steps(weight, MinMax(), limit=7, axis=0)
    assert torch.allclose(found, weight_scale(weight, limit=7, axis=0), rtol=1e-6)
    assert not torch.allclose(found, weight_scale(weight, limit=8, axis=0), rtol=1e-6)


def test_squared_error_chooses_nearly_the_best_of_all_steps_for_each_channel() -> None:
    torch.manual_seed(0)
    weight = torch.distributions.StudentT(3.0).sample((5, 200))

    def error(step: Tensor) -> Tensor:
        return (quantize_weight_by(weight, step, limit=7, axis=0) - weight).square().sum(1)

    scale = weight.abs().amax(1) / 7
    best = torch.stack([error(part * scale) for part in torch.linspace(0.05, 1, 400)]).amin(0)
    assert bool((error(weight_steps(weight, SquaredError(), limit=7, axis=0)) <= 1.1 * best).all())
    assert bool((error(weight_steps(weight, MinMax(), limit=7, axis=0)) > 1.1 * best).any())


def slow_divergence(values: np.ndarray, low: float, high: float, levels: int, bins: np.ndarray) -> float:
    """Entropy calibration as TensorRT's slides tell it, value by value and bin by bin, on the codes of the real grid.

    Args:
        values: Of which none comes again and again.
        low: Where the range starts, at an edge of bins.
        high: Where it ends.
        levels: The largest code.
        bins: The edges of all bins.
    """
    scale, zero = observers.grid(low, high, levels=levels)
    middles = [(one + other) / 2 for one, other in itertools.pairwise(bins)]
    inside = [place for place, middle in enumerate(middles) if low < middle < high]
    places = np.clip(np.searchsorted(bins, values, side="right") - 1, 0, len(middles) - 1)
    told, held = dict.fromkeys(inside, 0), dict.fromkeys(inside, 0)
    for place in places.tolist():
        told[min(max(place, inside[0]), inside[-1])] += 1
        if place in held:
            held[place] += 1
    cells: dict[float, list[int]] = {}
    for place in inside:
        cells.setdefault(float(np.clip(np.rint(middles[place] / scale) + zero, 0, levels)), []).append(place)
    lost, all_held = 0.0, sum(held.values())
    for members in cells.values():
        filled = [place for place in members if told[place]]
        for place in filled:
            p, q = told[place] / len(values), sum(held[each] for each in members) / len(filled) / all_held
            lost += p * math.log(p / max(q, 1e-10))
    return lost


def test_lost_information_on_numbers_by_hand() -> None:
    # Two values lie above: as told [2, 0, 4, 4] of 10. Codes tell 2 of 8 in the first bin (the second had none), and 6
    # over the other two: 3 of 8 each.
    expected = 0.2 * math.log(0.2 / 0.25) + 2 * 0.4 * math.log(0.4 / 0.375)
    counts, code = np.array([2.0, 0, 4, 2]), np.array([0.0, 0, 1, 1])
    assert lost_information(counts, code, below=0, above=2) == pytest.approx(expected)
    assert lost_information(np.array([3.0, 3, 4, 4]), code, below=0, above=0) == pytest.approx(0)
    assert lost_information(np.zeros(4), code, below=0, above=0) == 0


@pytest.mark.parametrize("signed", [False, True])
def test_entropy_cuts_outliers_off_and_keeps_the_best_of_its_ranges(signed: bool) -> None:
    values = np.random.default_rng(0).laplace(size=20000).astype(np.float32)
    values = np.append(values if signed else np.abs(values), [60.0]).astype(np.float32)
    seen = Seen()
    seen.stretch(torch.from_numpy(values))
    seen.look_for_spikes(torch.from_numpy(values))
    seen.count(torch.from_numpy(values))
    low, high = Entropy().range_of(seen, levels=15)
    assert high < 20 < seen.high
    assert low < 0 if signed else low >= 0
    bins = np.linspace(seen.low, seen.high, 2049)

    def divergence(threshold: float) -> float:
        ends = [bins[np.abs(bins - end).argmin()] for end in (-threshold, threshold)]
        return slow_divergence(values, *ends, 15, bins)

    others = [divergence(part * 60 / 256) for part in (12, 20, 24, 26, 30, 60, 256)]
    chosen = slow_divergence(values, low, high, 15, bins)
    assert chosen <= 1.01 * min(others)  # edges of bins are chosen a little differently here
    assert chosen < 0.5 * max(others)


def test_mean_magnitude_starts_where_the_paper_starts() -> None:
    torch.manual_seed(0)
    weight = torch.randn(3, 5000)
    for limit in (1, 3):
        found = weight_steps(weight, MeanMagnitude(), limit=limit, axis=0)
        assert torch.allclose(found, 2 * weight.abs().mean(1) / math.sqrt(limit), rtol=1e-3)
        assert not torch.allclose(found, 2 * weight.abs().mean(1) / math.sqrt(limit + 1), rtol=1e-3)
    # With 8 bits the formula's range is five times as wide as the weights: codes that nothing would use.
    assert torch.allclose(weight_steps(weight, MeanMagnitude(), limit=127, axis=0), weight.abs().amax(1) / 127)


# Gradients


def test_the_gradient_of_a_step_is_the_papers_on_numbers_by_hand() -> None:
    """LSQ, equation 3: -v + round(v) inside, -Q or Q outside; with the gain 1 / sqrt(N Q)."""
    weight = torch.tensor([[0.3, -0.6, 5.0, -9.0]])
    step = torch.tensor([0.5], requires_grad=True)
    quantize_weight_by(weight, step, limit=3, axis=0).sum().backward()
    inside = (1 - 0.6) + (-1 + 1.2)  # v = 0.6 and -1.2
    assert float(step.grad) == pytest.approx((inside + 3 - 3) / math.sqrt(4 * 3))
    weight.requires_grad_()
    quantize_weight_by(weight, step.detach(), limit=3, axis=0).sum().backward()
    assert weight.grad.tolist() == [[1, 1, 0, 0]]


def surrogate(x: Tensor, step: Tensor, *, low: Tensor | float, high: Tensor | float) -> Callable[[Tensor], Tensor]:
    """What the straight-through gradient is the gradient of: rounding errors and clamps stay what they are here."""
    v = x / step
    inside, error, code = (v >= low) & (v <= high), v.round() - v, v.clamp(low, high)
    return lambda moved: torch.where(inside, x + moved * error, moved * code)


def slope(function: Callable[[Tensor], Tensor], at: Tensor) -> float:
    epsilon = 1e-6
    return float((function(at + epsilon) - function(at - epsilon)) / (2 * epsilon))


@pytest.mark.parametrize("zero", [0, 6])
def test_steps_of_activations_have_the_gradient_of_their_definition(zero: int) -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(4, 50, dtype=torch.float64), torch.randn(4, 50, dtype=torch.float64)
    step = torch.tensor(0.13, dtype=torch.float64, requires_grad=True)
    (quantize_by_step(x, step, torch.tensor(zero, dtype=torch.int32), high=15) * weights).sum().backward()
    # The sum of what is shared by definition, times 1 / sqrt(features of an example * largest code).
    f = surrogate(x, step.detach(), low=-zero, high=15 - zero)
    expected = slope(lambda moved: (f(moved) * weights).sum(), step.detach())
    assert float(step.grad) == pytest.approx(expected / math.sqrt(50 * 15), rel=1e-6)
    assert float(step.grad) != pytest.approx(expected / math.sqrt(200 * 15), rel=1e-3)


def test_steps_and_offsets_have_the_gradients_of_their_definition() -> None:
    torch.manual_seed(0)
    x, weights = torch.randn(4, 50, dtype=torch.float64), torch.randn(4, 50, dtype=torch.float64)
    step = torch.tensor(0.13, dtype=torch.float64, requires_grad=True)
    offset = torch.tensor(-6 * 0.13, dtype=torch.float64, requires_grad=True)
    (quantize_by_offset(x, step, offset, high=15) * weights).sum().backward()
    s, b = step.detach(), offset.detach()
    f = surrogate(x - b, s, low=0, high=15)
    of_step = slope(lambda moved: ((f(moved) + b) * weights).sum(), s)
    # With the offset moves only what is clamped: what lies inside is rounded to where it was.
    inside = ((x - b) / s >= 0) & ((x - b) / s <= 15)
    of_offset = float((weights * ~inside).sum())
    assert float(step.grad) == pytest.approx(of_step / math.sqrt(50 * 15), rel=1e-6)
    assert float(offset.grad) == pytest.approx(of_offset / math.sqrt(50 * 15), rel=1e-6)
    assert float(step.grad) != pytest.approx(of_step, rel=1e-3)


def test_the_clip_gets_its_gradient_from_what_lies_above() -> None:
    x = torch.tensor([-1.0, 0.4, 1.1, 2.0, 7.0], requires_grad=True)
    clip = torch.tensor(2.0, requires_grad=True)
    (quantize_by_clip(x, clip, high=15) * torch.tensor([1.0, 10.0, 100.0, 1000.0, 10000.0])).sum().backward()
    assert float(clip.grad) == 11000
    assert x.grad.tolist() == [0, 10, 100, 0, 0]


def test_a_step_that_training_pushed_below_zero_does_no_harm() -> None:
    weight = torch.randn(3, 8)
    for step in (torch.tensor([0.1, -0.1, 0.0]), torch.zeros(3)):
        found = quantize_weight_by(weight, step, limit=7, axis=0)
        assert bool(found.isfinite().all())
    assert torch.equal(
        quantize_weight_by(weight, -torch.ones(3), limit=7, axis=0),
        quantize_weight_by(weight, torch.ones(3), limit=7, axis=0),
    )
    assert step_gradient(torch.tensor(2.5), low=-7, high=7) == -0.5


# Decay


@pytest.mark.parametrize("rule", [SGD(decay=0.1, rate=1.0, momentum=0.0), Adam(decay=0.1)])
def test_the_decay_of_weights_does_not_reach_steps(rule: SGD | Adam) -> None:
    weight, step, clip = nn.Parameter(torch.ones(2)), OwnDecay(torch.ones(2)), OwnDecay(torch.ones(2), decay=0.5)
    optimizer = rule.build({"weight": weight, "step": step, "clip": copy.deepcopy(clip)})
    assert [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups] == [
        (1, 0.1),
        (1, 0.0),
        (1, 0.5),
    ]
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros(2)
    optimizer.step()
    assert torch.equal(step, torch.ones(2))
    assert bool((weight < 1).all())
    if isinstance(rule, SGD):
        assert optimizer.param_groups[2]["params"][0].tolist() == [0.5, 0.5]


# In a network

KINDS = {
    "stored": Quantize(weight_bits=4, weight_observer=SquaredError()),
    "steps": Quantize(bits=4, weight_bits=4, learned=LearnedStep(), observer=MeanMagnitude()),
    "offsets": Quantize(bits=4, weight_bits=4, learned=LearnedStepAndOffset(), observer=SquaredError()),
    "clips": Quantize(bits=4, weight_bits=4, learned=LearnedClip()),
}


def quantized(kind: str) -> nn.Module:
    return KINDS[kind].plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build())


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    return {kind: quantized(kind) for kind in KINDS}


def taught(kind: str) -> tuple[nn.Module, nn.Module, list[float]]:
    """A quantized network, the same after a few steps towards the original, and its loss on the way."""
    small = quantized(kind)
    before = copy.deepcopy(small)
    inputs = EXAMPLE.inputs(64)
    examples = ArrayExamples(inputs, torch.arange(64) % 5)
    data = Data(train=examples, validation=examples, test=examples, classes=tuple("abcde"))
    teacher = Network(name="teacher", module=EXAMPLE.build(), learns=False)
    student = Network(name="student", module=small, learns=True)
    edge = Edge(source="teacher", target="student", objective=SoftTargets(temperature=2.0))
    fit = Fit(batch=16, optimizer=Adam(rate=1e-3), keep_best=False)
    history = run(
        [Stage(name="steps", graph=Graph(nodes=[teacher, student], edges=[edge]), epochs=6, fit=fit)],
        data,
        progress=False,
    )
    del history

    def loss(network: nn.Module) -> float:
        with torch.no_grad():
            return float(SoftTargets(temperature=2.0)(network.eval()(inputs), EXAMPLE.build()(inputs)).mean())

    return before, small, [loss(before), loss(small)]


@pytest.mark.parametrize("kind", ["steps", "offsets", "clips"])
def test_learned_grids_train_in_an_ordinary_graph_and_are_exported_as_whole_numbers(kind: str, tmp_path: Path) -> None:
    before, after, losses = taught(kind)
    assert losses[1] < 0.8 * losses[0]
    old, new = before.state_dict(), after.state_dict()
    learning = {"steps": ("scale", "step"), "offsets": ("scale", "step", "offset"), "clips": ("clip",)}[kind]
    for last in learning:
        names = [name for name in old if name.startswith("grids") and name.endswith(last)]
        assert names
        moved = [name for name in names if not torch.equal(old[name], new[name])]
        assert len(moved) >= 0.7 * len(names), f"{set(names) - set(moved)} stayed"
    inputs = EXAMPLE.inputs(32)
    path = export_onnx(after, inputs[:1], tmp_path / "model.onnx")
    assert read_kernels(OnnxRuntime(), path, inputs).integer_share == 100
    said, expected = OnnxRuntime().load(path, threads=1)(inputs), after(inputs).detach()
    assert float((said - expected).abs().mean() / expected.abs().mean()) < NARROW
    steps = {name: onnx.numpy_helper.to_array(value) for name, value in constants(path).items() if "scale" in name}
    assert any(np.isclose(value, grid_of(after).numbers()[0], rtol=1e-6).any() for value in steps.values())
    program = torch.export.load(export_pt2(after, inputs[:1], tmp_path / "model.pt2")).module()
    assert torch.allclose(program(inputs), expected, atol=1e-4)


def constants(path: Path) -> dict[str, onnx.TensorProto]:
    graph = onnx.load(str(path)).graph
    named = {value.name: value for value in graph.initializer}
    return {
        f"scale {number}": named[node.input[1]]
        for number, node in enumerate(graph.node)
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"} and node.input[1] in named
    }


def grid_of(model: nn.Module) -> StepGrid | OffsetGrid:
    return model.grids.at(":relu:1")  # type: ignore[operator,union-attr,no-any-return]


def test_what_only_moves_numbers_learns_with_what_it_moves() -> None:
    example = EXAMPLES["perceptron"]

    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(12, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.last(torch.relu(self.first(x)).reshape(-1, 3, 4).flatten(1))
            return out

    torch.manual_seed(0)
    plan = Quantize(learned=LearnedStep()).plan(Moving(), example.context())
    small = plan.apply(Moving())
    assert plan.moved == {":flatten:0": ":relu:0", ":reshape:0": ":relu:0"}
    assert small.grids.at(":flatten:0") is small.grids.at(":relu:0")


@pytest.mark.parametrize("kind", list(KINDS))
def test_channels_go_with_their_steps_and_ranks_do_without(
    kind: str, networks: dict[str, nn.Module], tmp_path: Path
) -> None:
    network, context, inputs = networks[kind], EXAMPLE.context(), EXAMPLE.inputs()
    small = PruneChannels(keep=0.5).plan(network, context).apply(network)
    grids = {name: grid for name, grid in small.grids.named_children() if isinstance(grid, WeightGrid)}
    assert len(grids) == (0 if kind == "clips" else 4)
    assert {len(grid.step) for grid in grids.values()} <= {8, 5}
    kept = {name: grid.step for name, grid in networks[kind].grids.named_children() if isinstance(grid, WeightGrid)}
    for name, grid in grids.items():
        assert bool(torch.isin(grid.step, kept[name]).all())
        assert isinstance(grid.step, OwnDecay) == (kind in {"steps", "offsets"})
    thin = LowRank(rank=3).plan(network, context).apply(network)
    for other in (small, thin):
        path = export_onnx(other, inputs, tmp_path / "model.onnx")
        said = OnnxRuntime().load(path, threads=1)(inputs)
        expected = other(inputs).detach()
        assert float((said - expected).abs().mean() / expected.abs().mean()) < NARROW


def test_pruned_weights_stay_pruned_on_their_own_steps() -> None:
    once = PruneWeights(keep=0.3).plan(EXAMPLE.build(), EXAMPLE.context()).apply(EXAMPLE.build())
    twice = KINDS["stored"].plan(once, EXAMPLE.context()).apply(once)
    grid = twice.grids.of_weights("inner")
    weight = twice.inner.weight  # type: ignore[union-attr]
    assert float((grid.round(weight, 0) == 0).double().mean()) >= 0.7


def test_a_plan_without_its_values_says_where_they_are() -> None:
    plan = without_values(KINDS["stored"].plan(EXAMPLE.build(), EXAMPLE.context()))
    assert plan.values is None
    plan.apply(EXAMPLE.build(), values=False)
    with pytest.raises(PlanError, match="weights next to it"):
        plan.apply(EXAMPLE.build())


def test_a_weight_that_changes_from_call_to_call_keeps_following() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Parameter(torch.randn(12, 12)), nn.Parameter(torch.randn(5, 12))

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(nn.functional.linear(x, self.one), self.other)

    torch.manual_seed(0)
    model, x = Two(), torch.randn(8, 12)
    plan = KINDS["stored"].plan(model, Context(inputs=x, calibration=[Batch(x, torch.arange(8))]))
    assert not plan.channels
    assert "follow" in plan.left[""]
    assert plan.apply(model)(x).shape == (8, 5)
