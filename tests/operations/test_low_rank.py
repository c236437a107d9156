"""Low rank against Eckart and Young, and against the layers it stands for."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import PlanError, SettingError
from lessen.operations import Channel, Factorized, LowRank, PruneWeights, Spatial
from lessen.operations.low_rank.factorization import factorized, factors, matrix_of, rank_for_energy

CONVOLUTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2), "bias": False},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": "valid"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "stride": 2},
    {"kernel_size": 1},
]


def plan(operation: LowRank, model: nn.Module, inputs: Tensor) -> Factorized:
    return operation.plan(model, Context(inputs=inputs))


def nearest_error(matrix: Tensor, rank: int) -> Tensor:
    """Eckart and Young: the distance from the nearest matrix of this rank."""
    return torch.linalg.svdvals(matrix)[rank:].square().sum().sqrt()


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_the_error_is_the_tail_of_the_singular_values(rank: int) -> None:
    matrix = torch.randn(6, 9, dtype=torch.float64)
    second, first = factors(matrix, rank)
    assert second.shape == (6, rank)
    assert first.shape == (rank, 9)
    error = torch.linalg.matrix_norm(matrix - second @ first)
    assert torch.allclose(error, nearest_error(matrix, rank), atol=1e-12)


def test_taking_the_smallest_singular_values_would_not_pass() -> None:
    """The planted error of the test above: `eigh` gives them in rising order, and that is a popular slip."""
    matrix = torch.randn(6, 9, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    wrong = (u[:, -3:] * s[-3:]) @ vh[-3:]
    assert torch.linalg.matrix_norm(matrix - wrong) > 1.01 * nearest_error(matrix, 3)


@pytest.mark.parametrize(("options", "scheme"), list(itertools.product(CONVOLUTIONS, [Channel(), Spatial()])), ids=str)
def test_full_rank_computes_what_the_convolution_did(options: dict[str, Any], scheme: Channel | Spatial) -> None:
    layer = nn.Conv2d(4, 6, **options).double()
    x = torch.randn(2, 4, 11, 13, dtype=torch.float64)
    pair = factorized(layer, min(matrix_of(layer, scheme).shape), scheme, values=True)
    assert torch.allclose(pair(x), layer(x), rtol=1e-9, atol=1e-12)
    # And with one rank less it does not: the comparison can fail.
    less = factorized(layer, min(matrix_of(layer, scheme).shape) - 1, scheme, values=True)
    assert not torch.allclose(less(x), layer(x), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scheme", [Channel(), Spatial()], ids=str)
def test_a_convolution_of_low_rank_is_kept_exactly_by_that_rank(scheme: Channel | Spatial) -> None:
    layer = nn.Conv2d(8, 16, 3, padding=1).double()
    first, second = scheme.pair(layer, 3)
    x = torch.randn(2, 8, 7, 7, dtype=torch.float64)
    out = second(first(x))
    # The weight of the two in a row, read off by passing unit impulses through them.
    impulses = torch.zeros(8, 8, 5, 5, dtype=torch.float64)
    impulses[torch.arange(8), torch.arange(8), 2, 2] = 1
    response = second(first(impulses)) - (0 if second.bias is None else second.bias[:, None, None])
    with torch.no_grad():
        layer.weight.copy_(response[:, :, 1:4, 1:4].flip(2, 3).transpose(0, 1))
        assert second.bias is not None
        assert layer.bias is not None
        layer.bias.copy_(second.bias)
    assert torch.allclose(layer(x), out, atol=1e-12)
    made = factorized(layer, 3, scheme, values=True)
    assert torch.allclose(made(x), out, atol=1e-9)
    assert rank_for_energy(matrix_of(layer, scheme), 1 - 1e-9) == 3


def test_linear_of_full_rank_is_exact_and_bias_stands_in_the_second() -> None:
    layer = nn.Linear(5, 7).double()
    pair = factorized(layer, 5, Channel(), values=True)
    x = torch.randn(3, 4, 5, dtype=torch.float64)
    assert torch.allclose(pair(x), layer(x), atol=1e-12)
    assert isinstance(pair[0], nn.Linear)
    assert pair[0].bias is None
    assert torch.equal(pair[1].bias, layer.bias)


def test_energy_is_the_share_of_squares() -> None:
    matrix = torch.diag(torch.tensor([4.0, 3.0, 0.0, 0.0]))
    assert [rank_for_energy(matrix, energy) for energy in (0.63, 0.65, 1.0)] == [1, 2, 2]
    assert rank_for_energy(torch.zeros(3, 3), 0.5) == 1


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.thin, self.grouped = nn.Linear(40, 40), nn.Linear(40, 3), nn.Conv2d(3, 3, 3, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.grouped(self.thin(self.wide(x))[:, :, None, None].expand(-1, -1, 3, 3))
        return out


def test_only_what_becomes_smaller_is_touched() -> None:
    made = plan(LowRank(rank=10), Grouped(), torch.randn(2, 40))
    assert made.ranks == {"wide": 10}
    assert made.left["thin"] == "rank 3 needs 129 weights, it has 120"
    assert "grouped" in made.left["grouped"]
    assert {row["module"] for row in made.describe()} == {"wide", "thin", "grouped"}
    small = made.apply(Grouped())
    assert sum(p.numel() for p in small.parameters()) == (10 * 80 + 40) + (3 * 40 + 3) + (27 + 3)
    assert made.sizes == {"wide": (1600, 800)}


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.75, 1.0])
def test_ratio_is_never_exceeded(ratio: float) -> None:
    model = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32))
    made = plan(LowRank(ratio=ratio), model, torch.randn(2, 64))
    assert made.ranks
    for before, after in made.sizes.values():
        assert after <= ratio * before
        assert after > ratio * before - 112 - 1


def test_attention_is_left_alone_and_still_runs() -> None:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 64, batch_first=True), 1, enable_nested_tensor=False
    ).eval()
    x = torch.randn(2, 5, 16)
    made = plan(LowRank(rank=2), model, x)
    assert "not a plain PyTorch layer" in made.left["layers.0.self_attn.out_proj"]
    # The fast path of the encoder layer reads these without calling them.
    assert "read from outside" in made.left["layers.0.linear1"]
    assert torch.equal(made.apply(model)(x), model(x))


class Reads(nn.Module):
    """A network with every way to use a layer other than calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read, self.tied, self.never = (nn.Linear(32, 32) for _ in range(4))
        self.embedding = nn.Embedding(32, 32)
        self.tied.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = nn.functional.linear(self.called(x), self.read.weight)
        return self.tied(out)


def test_layers_that_are_used_otherwise_are_left_alone() -> None:
    made = plan(LowRank(rank=2), Reads(), torch.randn(2, 32))
    assert made.ranks == {"called": 2}
    assert made.left["read"] == "its weight is read from outside"
    assert made.left["tied"] == "its weight is also that of embedding"
    assert made.left["never"] == "it is not called on the example inputs"


def test_pruned_layers_are_left_alone() -> None:
    model = nn.Sequential(nn.Linear(32, 32))
    x = torch.randn(2, 32)
    pruned = PruneWeights(keep=0.5).plan(model, Context(inputs=x)).apply(model)
    made = plan(LowRank(rank=2), pruned, x)
    assert not made.ranks
    assert "factorise first" in made.left["0"]


def test_a_shared_layer_stays_shared() -> None:
    layer = nn.Linear(32, 32)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    small = plan(LowRank(rank=4), model, torch.randn(2, 32)).apply(model)
    assert small[0] is small[2]


def test_a_frozen_layer_in_half_precision_stays_so() -> None:
    model = nn.Sequential(nn.Linear(32, 32)).bfloat16().requires_grad_(False).eval()
    small = plan(LowRank(rank=4), model, torch.randn(2, 32).bfloat16()).apply(model)
    assert {(p.dtype, p.requires_grad) for p in small.parameters()} == {(torch.bfloat16, False)}
    assert not any(module.training for module in small.modules())


@pytest.mark.parametrize("given", [{}, {"rank": 2, "energy": 0.5}, {"rank": 0}, {"energy": 0.0}, {"ratio": 1.5}])
def test_settings_are_checked(given: dict[str, Any]) -> None:
    with pytest.raises(SettingError, match="LowRank"):
        LowRank(**given)


def test_where_must_mean_something() -> None:
    with pytest.raises(PlanError, match="did you mean 'called'"):
        plan(LowRank(rank=2, where="caled"), Reads(), torch.randn(2, 32))
    assert plan(LowRank(rank=2, where=("called", "read"), exclude="read"), Reads(), torch.randn(2, 32)).left == {}


def test_a_plan_of_another_network_is_refused() -> None:
    made = plan(LowRank(rank=4), nn.Sequential(nn.Linear(32, 32)), torch.randn(2, 32))
    for other in (nn.Linear(32, 32), nn.Sequential(nn.ReLU()), nn.Sequential(nn.Linear(32, 3))):
        with pytest.raises(PlanError, match="does not belong"):
            made.apply(other)
