"""Scores at initialisation against finite differences and conservation, and the controls that go with them."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.core.errors import PlanError
from lessen.operations import (
    Chance,
    ConnectionSensitivity,
    Global,
    GradientFlow,
    Magnitude,
    PruneWeights,
    Reinitialize,
    Shuffled,
    SynapticFlow,
    Uniform,
)
from lessen.operations.parts.packed import unpack
from lessen.operations.prune_weights import NetworkScore, candidates
from lessen.surgery.forms.mask import masked_parameters
from lessen.testing import EXAMPLES

CLASSES = [Chance(), ConnectionSensitivity(), GradientFlow(), Shuffled(), SynapticFlow()]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 3)).double()


def context() -> Context:
    torch.manual_seed(1)
    sizes = (9, 4)
    batches = [Batch(torch.randn(n, 3).double(), torch.arange(n), torch.randint(3, (n,))) for n in sizes]
    return Context(inputs=batches[0].inputs, calibration=batches, loss=loss)


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def scores(score: NetworkScore, model: nn.Module) -> dict[str, Tensor]:
    chosen, _ = candidates(model, None, None)
    return score.over(model, chosen, context(), keep=0.5, allocation=Global())


def whole_loss(model: nn.Module, temperature: float = 1.0, *, batches: slice = slice(None)) -> Tensor:
    """The mean over all examples; batch norm normalises each batch."""
    model = model.train()
    found = [
        (loss(model(batch.inputs) / temperature, batch.labels).sum(), len(batch))  # type: ignore[arg-type,operator]
        for batch in context().calibration[batches]
    ]
    return torch.stack([value for value, _ in found]).sum() / sum(count for _, count in found)


def derivatives(figure: Callable[[nn.Module], float], name: str, step: float = 1e-4) -> Tensor:
    """How a figure changes when each weight is scaled: central differences."""
    weight = network().get_parameter(name)
    found = torch.empty(weight.numel(), dtype=torch.float64)
    for place in range(weight.numel()):
        values = []
        for sign in (1, -1):
            model = network()
            model.get_parameter(name).data.view(-1)[place] *= 1 + sign * step
            values.append(figure(model))
        found[place] = (values[0] - values[1]) / (2 * step)
    return found.view(weight.shape)


def test_connection_sensitivity_is_how_the_loss_changes_when_weights_are_scaled() -> None:
    found = scores(ConnectionSensitivity(), network())
    by_hand = {name: derivatives(lambda model: float(whole_loss(model).detach()), name).abs() for name in found}
    total = sum(value.sum() for value in by_hand.values())
    assert all(torch.allclose(found[name], by_hand[name] / total, atol=1e-7) for name in found)
    # The planted errors: the gradient without the weight, and a batch that stands for all of them.
    model = network()
    plain = torch.autograd.grad(whole_loss(model), [model.get_parameter(name) for name in found])
    assert not torch.allclose(plain[0].abs() / plain[0].abs().sum(), found["0.weight"] / found["0.weight"].sum())
    part = derivatives(lambda model: float(whole_loss(model, batches=slice(1)).detach()), "0.weight").abs()
    assert not torch.allclose(part / part.sum(), found["0.weight"] / found["0.weight"].sum(), atol=1e-3)


def test_gradient_flow_is_how_the_gradient_changes_when_weights_are_scaled() -> None:
    names = ("0.weight", "3.weight")

    def flow(model: nn.Module) -> float:
        found = torch.autograd.grad(whole_loss(model, 200.0), [model.get_parameter(name) for name in names])
        return float(sum(part.square().sum() for part in found))

    found = scores(GradientFlow(), network())
    for name in names:
        by_hand = derivatives(flow, name) / 2
        assert torch.allclose(found[name], by_hand, rtol=1e-4, atol=float(by_hand.abs().max()) * 1e-5)
        # The planted error, seen in the wild: the other sign, which keeps what should go.
        assert not torch.allclose(found[name], -by_hand, rtol=1e-2)


def test_gradient_flow_goes_through_attention() -> None:
    example = EXAMPLES["attention"]
    made = PruneWeights(keep=0.3, score=GradientFlow(), allocation=Global()).plan(example.build(), example.context())
    assert "layer.self_attn.in_proj_weight" in made.masks


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)
    )


def test_synaptic_flow_is_conserved_from_layer_to_layer() -> None:
    model = chain()
    chosen, _ = candidates(model, None, None)
    ctx = Context(inputs=torch.randn(4, 5))
    found = SynapticFlow(rounds=1).over(model, chosen, ctx, keep=0.5, allocation=Global())
    first, second, third = (model[place].weight.detach().double().abs() for place in (0, 2, 4))  # type: ignore[union-attr,operator]
    whole = (third @ second @ first).sum()
    for score in found.values():
        assert torch.allclose(score.sum(), whole)
    by_hand = third.sum(0)[:, None] * second * first.sum(1)[None, :]
    assert torch.allclose(found["2.weight"], by_hand)


class Normed(nn.Module):
    """A batch norm with statistics of both signs, and a parameter that is exactly 0."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 6, bias=False), nn.BatchNorm1d(6), nn.Linear(6, 3, bias=False)
        assert self.norm.running_mean is not None
        self.norm.running_mean.copy_(torch.linspace(-1, 1, 6))
        self.norm.weight.data[0] = 0.0

    def forward(self, x_NC: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.first(x_NC)))
        return out


def test_statistics_of_batch_norm_keep_their_sign_and_zeros_stay_zero() -> None:
    torch.manual_seed(0)
    model = Normed().train()
    before = copy.deepcopy(model.state_dict())
    chosen, _ = candidates(model, None, None)
    ctx = Context(inputs=torch.randn(4, 5))
    found = SynapticFlow(rounds=1).over(model, chosen, ctx, keep=0.5, allocation=Global())

    def by_hand(mean: Tensor) -> Tensor:
        given = model.first.weight.detach().double().abs().sum(1)
        deviation = (model.norm.running_var.double() + model.norm.eps).sqrt()  # type: ignore[union-attr]
        out = model.norm.weight.detach().double().abs() * (given - mean.double()) / deviation
        return model.last.weight.detach().double().abs() * out

    mean = model.norm.running_mean
    assert mean is not None
    assert torch.allclose(found["last.weight"], by_hand(mean))
    # The planted error of the released code: absolute values of the whole state.
    assert not torch.allclose(found["last.weight"], by_hand(mean.abs()))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training


def test_many_rounds_empty_no_layer_and_one_round_does() -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Linear(20, 60, bias=False), nn.ReLU(), nn.Linear(60, 60, bias=False), nn.ReLU())
    model = nn.Sequential(*wide, nn.Linear(60, 4, bias=False))
    ctx = Context(inputs=torch.randn(2, 20))
    keep = 0.006
    made = PruneWeights(keep=keep, score=SynapticFlow(), allocation=Global()).plan(model, ctx)
    small = made.apply(model)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.abs_()
        assert float(small(torch.ones(1, 20)).sum()) > 0, "no path is left from the input to the output"
    once = PruneWeights(keep=keep, score=SynapticFlow(rounds=1), allocation=Global())
    try:
        cut = once.plan(model, ctx).apply(model)
    except PlanError:  # a layer would be empty
        return
    with torch.no_grad():
        for parameter in cut.parameters():
            parameter.abs_()
        assert float(cut(torch.ones(1, 20)).sum()) < float(small(torch.ones(1, 20)).sum())


def masks(model: nn.Module, score: NetworkScore | Magnitude, seed: int = 0) -> dict[str, Tensor]:
    ctx = Context(inputs=torch.randn(2, 3).double(), seed=seed)
    made = PruneWeights(keep=0.5, score=score, allocation=Global()).plan(model, ctx)
    return {name: unpack(text, made.shapes[name]) for name, text in made.masks.items()}


def test_shuffling_keeps_the_counts_and_nothing_else() -> None:
    model = network()
    plain, mixed = masks(model, Magnitude()), masks(model, Shuffled())
    assert {name: int(mask.sum()) for name, mask in plain.items()} == {n: int(mask.sum()) for n, mask in mixed.items()}
    assert not all(torch.equal(plain[name], mixed[name]) for name in plain)
    assert all(torch.equal(mask, masks(model, Shuffled())[name]) for name, mask in mixed.items())
    assert not all(torch.equal(mask, masks(model, Shuffled(), seed=1)[name]) for name, mask in mixed.items())


def test_what_was_pruned_stays_and_is_not_counted_when_shuffled() -> None:
    model = EXAMPLES["perceptron"].build()
    ctx = EXAMPLES["perceptron"].context()
    small = PruneWeights(keep=0.6).plan(model, ctx).apply(model)
    for score in (Shuffled(), Chance()):
        less = PruneWeights(keep=0.2, score=score).plan(small, ctx).apply(small)
        for path in ("first", "again"):
            before, after = small.get_submodule(path).weight, less.get_submodule(path).weight
            assert int((after != 0).sum()) == round(0.2 * after.numel())
            assert bool((after[before == 0] == 0).all())


def test_fresh_weights_under_the_same_masks() -> None:
    example = EXAMPLES["attention"]
    small = PruneWeights(keep=0.4).plan(example.build(), example.context()).apply(example.build())
    made = Reinitialize(exclude="head").plan(small, example.context())
    fresh = made.apply(small)
    for (path, module, name), (_, other, _) in zip(masked_parameters(small), masked_parameters(fresh), strict=True):
        old, new = getattr(module, name), getattr(other, name)
        assert torch.equal(old != 0, new != 0)
        assert torch.equal(old, new) == (path == "head")
    again = made.apply(small)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_what_is_missing_is_named() -> None:
    for score in (ConnectionSensitivity(), GradientFlow()):
        with pytest.raises(PlanError, match="a loss"):
            PruneWeights(score=score).plan(network(), Context(inputs=torch.randn(2, 3).double()))
    assert all(isinstance(score, NetworkScore) for score in CLASSES)
    assert not isinstance(Uniform(), NetworkScore)
