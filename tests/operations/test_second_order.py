"""Pruning with reconstruction: exactly so many, never better than the best, sequential, and what it leaves survives."""

import copy
import itertools
import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context, decode, encode
from lessen.core.errors import PlanError, SettingError
from lessen.functional.quadratic import damped, on_support
from lessen.operations import (
    NM,
    Alps,
    Anywhere,
    ExactObs,
    Global,
    PerRow,
    PruneByReconstruction,
    PruneChannels,
    PruneWeights,
    Quantize,
    Reconstructed,
    Smallest,
    SparseGpt,
    Wanda,
)
from lessen.operations.parts.hessian import Gram, gram_of, layers_of
from lessen.operations.parts.values import without_values
from lessen.operations.quantize import is_quantized
from lessen.operations.second_order.choice import Choice
from lessen.operations.second_order.method import ReconstructionMethod
from lessen.operations.second_order.operation import relative_error
from lessen.surgery.forms.mask import mask_of
from lessen.testing import EXAMPLES

METHODS: list[ReconstructionMethod] = [Smallest(), Wanda(), SparseGpt(), ExactObs(), Alps()]
CPU = torch.device("cpu")
exact = PruneByReconstruction(damping=0.0)


def inputs(count: int, width: int, seed: int = 0) -> Tensor:
    """Correlated with their neighbours, and of different sizes."""
    drawn = torch.Generator().manual_seed(seed)
    apart = (torch.arange(width).unsqueeze(1) - torch.arange(width)).abs()
    size = torch.randn(width, generator=drawn, dtype=torch.float64).mul(0.7).exp()
    mixed = torch.linalg.cholesky(0.6 ** apart.double())
    return torch.randn(count, width, generator=drawn, dtype=torch.float64) @ mixed.T * size


def layer_gram(x_PI: Tensor) -> Gram:
    return Gram(gram=(x_PI.T @ x_PI).unsqueeze(0), sum=x_PI.sum(0, keepdim=True), count=torch.tensor([len(x_PI)]))


def context(x: Tensor) -> Context:
    return Context(inputs=x[:2], calibration=[Batch(x, torch.arange(len(x)))])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize("pattern", [Anywhere(), PerRow(), NM(n=2, m=4)], ids=lambda pattern: type(pattern).__name__)
def test_exactly_so_many_are_kept_in_every_pattern(
    method: ReconstructionMethod, pattern: Anywhere | PerRow | NM
) -> None:
    """Released SparseGPT and Wanda compare with a threshold, and prune one too many in each block."""
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0)).double()
    weight[:, :10] = weight[:, :10].sign()  # equal weights, which a threshold cannot cut
    gram = layer_gram(inputs(100, 20))
    operation = PruneByReconstruction(method=method.__class__(block=8) if isinstance(method, SparseGpt) else method)
    for keep in (0.5,) if isinstance(pattern, NM) else (0.35, 0.5, 0.9):
        kept, found = operation.solve(weight, gram, pattern, round(keep * 120))
        assert bool((found[~kept] == 0).all())
        if isinstance(pattern, Anywhere):
            assert int(kept.sum()) == round(keep * 120)
        elif isinstance(pattern, PerRow):
            assert kept.sum(1).tolist() == [round(keep * 20)] * 6
        else:
            assert bool((kept.view(6, 5, 4).sum(2) == 2).all())


def test_a_threshold_would_prune_one_too_many() -> None:
    """The planted error of the released code: everything up to the k-th smallest cost, that one included."""
    cost = torch.rand(6, 8)
    remove = 24
    at = cost.flatten().sort().values[remove]
    assert int((cost <= at).sum()) == remove + 1
    choice = Choice(pattern=Anywhere(), count=48 - remove, alive=torch.ones(6, 8, dtype=torch.bool))
    assert int((~choice.among(cost)).sum()) == remove
    columns = [choice.among_columns(cost[:, at : at + 3], at) for at in (0, 3, 6)]
    assert sum(int(mask.sum()) for mask in columns) == 48 - remove


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_no_method_is_better_than_the_best_of_all_masks(method: ReconstructionMethod) -> None:
    """Enumerate the masks of a row, with least squares on each; the pattern keeps 4 of each row's 9."""
    reached = best = 0.0
    operation = PruneByReconstruction(method=method, damping=0.0)
    masks = torch.zeros(126, 9, dtype=torch.bool)
    for number, kept in enumerate(itertools.combinations(range(9), 4)):
        masks[number, list(kept)] = True
    for seed in range(20):
        weight = torch.randn(2, 9, generator=torch.Generator().manual_seed(seed)).double()
        gram = layer_gram(inputs(72, 9, seed))
        _, found = operation.solve(weight, gram, PerRow(), 8)
        for row in range(2):
            error = relative_error(weight[row : row + 1], found[row : row + 1], gram)
            all_rows = on_support(weight[row].expand(126, -1), gram.gram[0], masks)
            least = min(relative_error(weight[row : row + 1], one.unsqueeze(0), gram) for one in all_rows)
            assert error >= least * (1 - 1e-9)
            reached, best = reached + error, best + least
    limits = {"Alps": 1.06, "ExactObs": 1.15, "SparseGpt": 1.8, "Wanda": 1.8, "Smallest": 5.0}
    ratio = reached / best
    assert ratio < limits[type(method).__name__]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_refit_is_never_worse_on_the_calibration_examples(method: ReconstructionMethod) -> None:
    weight = torch.randn(8, 24, generator=torch.Generator().manual_seed(0)).double()
    gram = layer_gram(inputs(96, 24))
    errors = {}
    for refit in (True, False):
        operation = PruneByReconstruction(method=method, refit=refit, damping=0.0)
        _, found = operation.solve(weight, gram, Anywhere(), 70)
        errors[refit] = relative_error(weight, found, gram)
    assert errors[True] <= errors[False] * (1 + 1e-9)
    if isinstance(method, ExactObs):  # the surgeon's weights are already the best on their support
        assert errors[True] == pytest.approx(errors[False])
    if isinstance(method, Smallest | Wanda | SparseGpt):
        assert errors[True] < 0.95 * errors[False]


def test_the_inputs_help_even_magnitude_with_refit_is_behind() -> None:
    sums: dict[str, float] = {}
    for seed in range(4):
        weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(seed)).double()
        gram = layer_gram(inputs(256, 32, seed))
        for method in METHODS:
            operation = PruneByReconstruction(method=method)
            _, found = operation.solve(weight, gram, method.usual, round(0.4 * 512))
            name = type(method).__name__
            sums[name] = sums.get(name, 0.0) + relative_error(weight, found, gram)
    assert max(sums["SparseGpt"], sums["Wanda"]) < 0.8 * sums["Smallest"], sums
    assert sums["Alps"] < sums["SparseGpt"], sums
    assert sums["Alps"] < sums["Wanda"], sums


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4)).double()


def test_layers_see_the_inputs_behind_what_was_pruned_before() -> None:
    """Sequential: each layer's weights are those that solve it on the network that was pruned up to it."""
    model, x = small_network(), inputs(64, 8)
    operation = PruneByReconstruction(keep=0.5, method=Wanda())
    made = operation.plan(model, context(x))
    small = made.apply(model)
    assert isinstance(small, nn.Sequential)
    with torch.no_grad():
        behind, dense = small[:2](x), model[:2](x)
    mask = mask_of(small[2], "weight")
    assert mask is not None
    for given, right in ((behind, True), (dense, False)):  # the planted error: inputs of the dense network
        gram_II = damped(given.T @ given, operation.damping)
        solved = on_support(model[2].weight.detach(), gram_II, mask.kept)
        assert torch.allclose(solved, small[2].weight, atol=1e-6) == right


def test_convolutions_are_solved_with_their_groups_stride_and_padding() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False).double()
    model, x = nn.Sequential(layer), torch.randn(6, 4, 9, 9).double()
    small = PruneByReconstruction(keep=0.4, damping=0.0).plan(model, context(x)).apply(model)
    weight = small[0].weight.detach().clone()  # type: ignore[union-attr,index,operator]
    kept = (weight != 0).flatten()
    assert int(kept.sum()) == round(0.4 * weight.numel())
    # The oracle: no step in the kept weights makes the outputs nearer, by automatic differentiation of the layer.
    free = weight.clone().requires_grad_(True)
    outputs = F.conv2d(x, free, stride=2, padding=1, groups=2)
    (gradient,) = torch.autograd.grad((outputs - model(x)).square().sum(), free)
    assert gradient.flatten()[kept].abs().max() < 1e-6 * gradient.abs().max()
    assert gradient.flatten()[~kept].abs().max() > 1


def test_what_was_pruned_stays_and_so_much_more_goes() -> None:
    example = EXAMPLES["perceptron"]
    small = PruneWeights(keep=0.6).plan(example.build(), example.context()).apply(example.build())
    for method in METHODS:
        less = PruneByReconstruction(keep=0.3, method=method, pattern=Anywhere()).plan(small, example.context())
        after = less.apply(small)
        for path in ("first", "again", "last"):
            old, new = small.get_submodule(path).weight, after.get_submodule(path).weight
            assert bool((new[old == 0] == 0).all())
            assert int((new != 0).sum()) == round(0.3 * new.numel())


def test_tied_and_shared_weights_are_solved_once_and_stay_tied() -> None:
    example = EXAMPLES["shared"]
    small = PruneByReconstruction(keep=0.5).plan(example.build(), example.context()).apply(example.build())
    assert torch.equal(small.tied.weight, small.other.weight)  # type: ignore[union-attr]
    assert small.first is small.same


@pytest.mark.parametrize("other", [PruneChannels(keep=0.5), Quantize(weight_bits=8)], ids=lambda o: type(o).__name__)
def test_it_goes_with_other_operations(other: PruneChannels | Quantize) -> None:
    example = EXAMPLES["convolutions"]
    ours = PruneByReconstruction(keep=0.4)
    once = ours.plan(example.build(), example.context()).apply(example.build())
    twice = other.plan(once, example.context()).apply(once)
    for network in (twice, copy.deepcopy(twice)):
        assert float((network.inner.weight == 0).double().mean()) > 0.4  # type: ignore[union-attr,operator]
    first = other.plan(example.build(), example.context()).apply(example.build())
    then = ours.plan(first, example.context()).apply(first)
    assert int((then.inner.weight != 0).sum()) == round(0.4 * then.inner.weight.numel())  # type: ignore[union-attr,operator,arg-type]
    assert is_quantized(then) == isinstance(other, Quantize)
    assert bool(torch.isfinite(then(example.inputs())).all())


def test_a_plan_without_its_values_makes_the_structure_only() -> None:
    example = EXAMPLES["perceptron"]
    made = PruneByReconstruction(keep=0.5).plan(example.build(), example.context())
    bare = without_values(made)
    text = json.dumps(encode(bare))
    assert len(text) < len(json.dumps(encode(made))) / 2
    classes = {kind.__name__: kind for kind in (Reconstructed, type(made.pruned))}
    assert decode(json.loads(text), classes) == bare
    masked = bare.apply(example.build(), values=False)
    assert int((masked.first.weight != 0).sum()) == 192  # type: ignore[union-attr,operator,arg-type]
    with pytest.raises(PlanError, match="stored in the weights"):
        bare.apply(example.build())


def test_the_share_of_each_layer_can_be_its_own() -> None:
    example = EXAMPLES["perceptron"]
    made = PruneByReconstruction(keep=0.5, allocation=Global()).plan(example.build(), example.context())
    by_size = PruneWeights(keep=0.5, allocation=Global()).plan(example.build(), example.context())
    counts = [{row["module"]: row["after"].split(",")[0] for row in plan.describe()} for plan in (made, by_size)]
    assert counts[0] == counts[1]


def test_layers_that_are_not_seen_are_named_and_errors_say_what_to_do() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.used(x)
            return out

    x = torch.randn(8, 4)
    made = PruneByReconstruction().plan(Unused(), context(x))
    assert made.pruned.left == {"unused.weight": "no product with it was observed"}
    with pytest.raises(PlanError, match="calibration"):
        PruneByReconstruction().plan(Unused(), Context(inputs=x))
    with pytest.raises(SettingError, match=r"write keep=0\.5"):
        PruneByReconstruction(keep=0.3, pattern=NM(n=2, m=4))


def test_errors_are_those_of_the_calibration_examples() -> None:
    model, x = nn.Sequential(nn.Linear(8, 6, bias=False)).double(), inputs(40, 8)
    made = PruneByReconstruction(keep=0.5).plan(model, context(x))
    small = made.apply(model)
    with torch.no_grad():
        lost = (small(x) - model(x)).square().sum() / model(x).square().sum()
    assert made.errors["0.weight"] == pytest.approx(float(lost), rel=1e-6)
    layer = layers_of(model, x, ["0.weight"])["0.weight"]
    found = gram_of(model, [layer], context(x).calibration, device=CPU)["0.weight"]
    assert relative_error(model[0].weight.detach(), small[0].weight.detach(), found) == pytest.approx(float(lost))  # type: ignore[union-attr,index,operator]
