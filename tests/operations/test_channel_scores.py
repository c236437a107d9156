"""Scores of channels: each against the obviously right slow way, and each slow way against a planted error."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context
from lessen.core.errors import PlanError
from lessen.operations import (
    ActivationWidth,
    BatchNormScale,
    Fisher,
    GeometricMedian,
    Global,
    Knapsack,
    Magnitude,
    PruneChannels,
    Taylor,
)
from lessen.operations.channel_scores.contract import ChannelScore
from lessen.operations.channel_scores.geometric_median import summed_distances
from lessen.operations.prune_channels.scores import group_figures, normalised
from lessen.surgery.coupling import Coupling, analyse
from lessen.testing import EXAMPLES, OperationLaws

SCORES: tuple[ChannelScore, ...] = (ActivationWidth(), BatchNormScale(), Fisher(), GeometricMedian())
FEW = {name: EXAMPLES[name] for name in ("convolutions",)}


class TestByActivations(OperationLaws):
    networks = {name: EXAMPLES[name] for name in ("perceptron", "attention")}
    settings = (PruneChannels(keep=0.5, score=ActivationWidth()),)


class TestByScales(OperationLaws):
    networks = FEW
    settings = (PruneChannels(keep=0.5, score=BatchNormScale(), allocation=Global()),)


class TestByFisher(OperationLaws):
    networks = FEW
    settings = (PruneChannels(multiply_adds=0.5, score=Fisher(), allocation=Knapsack()),)


class TestByDistance(OperationLaws):
    networks = FEW
    settings = (PruneChannels(keep=0.5, score=GeometricMedian()),)


def test_they_keep_the_contract() -> None:
    assert all(isinstance(score, ChannelScore) for score in SCORES)


class Plain(nn.Module):
    """Two convolutions with their normalisations, a flattened classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.two, self.other = nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3)
        self.head = nn.Linear(3 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.one(x)))
        x = F.adaptive_avg_pool2d(F.relu(self.other(self.two(x))), 2)
        return self.head(x.flatten(1))


def loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


def task() -> tuple[nn.Module, Coupling, Context]:
    torch.manual_seed(0)
    network = Plain().double().eval()
    for norm in (network.norm, network.other):
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.normal_(norm.bias)
    x, labels = torch.randn(12, 2, 6, 6, dtype=torch.float64), torch.randint(5, (12,))
    batches = [Batch(x[i], i, labels[i]) for i in torch.arange(12).split(5)]
    return network, analyse(network, x[:2]), Context(inputs=x[:2], calibration=batches, loss=loss)


def test_scales_by_hand() -> None:
    network, coupling, context = task()
    found = BatchNormScale().figures(network, coupling, context)
    assert torch.equal(found["one"], network.norm.weight.detach().abs())
    assert torch.equal(found["two"], network.other.weight.detach().abs())


def test_a_group_without_a_normalisation_is_left_alone_and_named() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    plan = PruneChannels(keep=0.5, score=BatchNormScale()).plan(network.eval(), Context(inputs=torch.rand(2, 1, 3, 3)))
    assert list(plan.kept) == ["0"]
    assert plan.left_out == {"3": "BatchNormScale says nothing about it"}
    with pytest.raises(PlanError, match="BatchNormScale says nothing"):
        PruneChannels(keep=0.5, score=BatchNormScale(), where="3").plan(network, Context(inputs=torch.rand(2, 1, 3, 3)))


def test_distances_are_those_of_the_filters_themselves() -> None:
    network, coupling, context = task()
    found = GeometricMedian().figures(network, coupling, context)
    for name, layer in (("one", network.one), ("two", network.two)):
        filters = layer.weight.detach().flatten(1).numpy()
        assert torch.allclose(found[name], torch.from_numpy(cdist(filters, filters).sum(1)), rtol=1e-12)


def test_distances_of_absolute_values_would_be_seen() -> None:
    """The planted error, as in Torch-Pruning: opposites are not the same filter."""
    filters = torch.tensor([[1.0, -2.0], [-1.0, 2.0], [1.0, 2.0]])
    right = torch.from_numpy(cdist(filters, filters).sum(1))
    assert torch.allclose(summed_distances(filters), right)
    assert not torch.allclose(summed_distances(filters.abs()), right)


def shares(network: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """w * dL/dw over everything that goes with each channel of `one`, for the mean loss of examples: (4,)."""
    network.zero_grad()
    loss(network(x), labels).mean().backward()
    one, two = network.one, network.two
    total = (one.weight * one.weight.grad).sum((1, 2, 3)) + one.bias * one.bias.grad
    return (total + (two.weight * two.weight.grad).sum((0, 2, 3))).detach()


def slow(network: nn.Module, batches: list[Batch], figure: Callable[[Tensor], Tensor]) -> Tensor:
    return sum((figure(shares(network, b.inputs, b.labels)) for b in batches), torch.zeros(4, dtype=torch.float64))


def test_fisher_is_over_single_examples() -> None:
    network, coupling, context = task()
    found = Fisher().figures(network, coupling, context)["one"]
    alone = [
        Batch(b.inputs[i], b.index[i], b.labels[i]) for b in context.calibration for i in torch.arange(len(b)).split(1)
    ]
    assert len(alone) == 12
    assert torch.allclose(found, slow(network, alone, torch.square) / 12, rtol=1e-9)
    # The planted error: the gradient of a batch, in which examples cancel.
    assert not torch.allclose(found, slow(network, list(context.calibration), torch.square) / 3, rtol=0.05)
    assert not torch.allclose(found, slow(network, alone, torch.abs) / 12, rtol=0.05)


def test_taylor_cancels_within_a_group_and_a_batch_and_no_further() -> None:
    network, coupling, context = task()
    batches = list(context.calibration)
    found = group_figures(Taylor(joint=True), network, coupling, context)["one"]
    assert torch.allclose(found, slow(network, batches, torch.square), rtol=1e-9)
    # Two planted errors: signs that cancel across batches as well, and signs that cancel nowhere.
    across = sum(shares(network, b.inputs, b.labels) for b in batches).square()
    assert not torch.allclose(found, across, rtol=0.05)
    network.zero_grad()

    def nowhere(b: Batch) -> Tensor:
        network.zero_grad()
        loss(network(b.inputs), b.labels).mean().backward()
        one, two = network.one, network.two
        total = (one.weight * one.weight.grad).abs().sum((1, 2, 3)) + (one.bias * one.bias.grad).abs()
        return (total + (two.weight * two.weight.grad).abs().sum((0, 2, 3))).detach().square()

    assert not torch.allclose(found, sum(nowhere(b) for b in batches), rtol=0.05)


def labelled(x: Tensor, labels: list[int]) -> Batch:
    return Batch(x, torch.arange(len(x)), torch.tensor(labels))


def test_taylor_sees_what_magnitude_does_not() -> None:
    """A hidden unit with huge weights that never fires is worth nothing to the loss."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[-50.0, -50.0], [1.0, 1.0]]))
        network[0].bias.fill_(-0.1)
    x = torch.rand(4, 2) + 0.2
    given = Context(inputs=x, calibration=(labelled(x, [0, 1, 0, 1]),), loss=loss)
    assert PruneChannels(score=Taylor()).plan(network, given).kept == {"0": [1]}
    assert PruneChannels(score=Magnitude()).plan(network, given).kept == {"0": [0]}


@pytest.mark.parametrize("joint", [True, False])
def test_taylor_is_the_mean_of_sums_by_hand(joint: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    batches = [labelled(torch.rand(5, 3).double(), [0, 1, 0, 1, 1]) for _ in range(2)]
    given = Context(inputs=torch.rand(2, 3).double(), calibration=batches, loss=loss)
    found = normalised(group_figures(Taylor(joint=joint), network, analyse(network, given.inputs), given))["0"]
    wanted = torch.zeros(4).double()
    for batch in batches:
        network.zero_grad()
        loss(network(batch.inputs), batch.labels).mean().backward()  # type: ignore[arg-type]
        for unit in range(4):
            moved = [
                network[0].weight.grad[unit] * network[0].weight[unit],
                (network[0].bias.grad[unit] * network[0].bias[unit])[None],
                network[2].weight.grad[:, unit] * network[2].weight[:, unit],
            ]
            each = torch.cat(moved).detach()
            wanted[unit] += each.sum() ** 2 if joint else each.abs().sum()
    torch.testing.assert_close(found, wanted / wanted.mean())


def test_taylor_needs_labels_and_a_loss() -> None:
    network, _, context = task()
    with pytest.raises(PlanError, match="needs gradients"):
        PruneChannels(score=Taylor()).plan(network.float(), Context(inputs=context.inputs.float()))


def test_activations_by_hand() -> None:
    network, coupling, context = task()
    found = ActivationWidth().figures(network, coupling, context)
    one, two = torch.zeros(4, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for batch in context.calibration:
        for x in batch.inputs:
            with torch.no_grad():
                first = F.relu(network.norm(network.one(x[None])))
                second = F.adaptive_avg_pool2d(F.relu(network.other(network.two(first))), 2)
            one += first[0].flatten(1).norm(dim=1)
            two += second[0].flatten(1).norm(dim=1)  # four places of the flattened axis are one channel
    assert torch.allclose(found["one"], one / 12, rtol=1e-9)
    assert torch.allclose(found["two"], two / 12, rtol=1e-9)
    wrong = torch.zeros(4, dtype=torch.float64)  # the planted error: L2 over the batch as well
    for batch in context.calibration:
        with torch.no_grad():
            wrong += F.relu(network.norm(network.one(batch.inputs))).square().sum((0, 2, 3))
    assert not torch.allclose(found["one"], wrong.sqrt() / 12, rtol=0.05)


def test_what_is_missing_is_said() -> None:
    network, coupling, context = task()
    bare = dataclasses.replace(context, calibration=(), loss=None)
    with pytest.raises(PlanError, match="no calibration batches"):
        ActivationWidth().figures(network, coupling, bare)
    with pytest.raises(PlanError, match="no a loss"):
        Fisher().figures(network, coupling, bare)
