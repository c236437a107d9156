"""Pruning of channels against the masked network, against arithmetic by hand, and against planted errors."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Context, decode, encode
from lessen.core.errors import PlanError, SettingError
from lessen.operations import Global, PruneChannels, PrunedChannels, Uniform
from lessen.operations.prune_channels import masked
from lessen.operations.prune_channels.verify import Trial, compare, randomised, verify
from lessen.surgery.digest import digest
from lessen.zoo import lenet5, mlp, residual, transformer


def images(size: int = 8, channels: int = 3) -> Tensor:
    return torch.rand(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def context(inputs: Any = None, **more: Any) -> Context:
    return Context(inputs=images() if inputs is None else inputs, **more)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    ).eval()


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).detach().abs().max() / wanted.detach().abs().max())


def check(network: nn.Module, x: Tensor, plan: PrunedChannels, *, changes: bool = True) -> nn.Module:
    """The pruned network equals the masked one, and not the whole one (unless the channels were dead anyway)."""
    work = randomised(network, seed=1)
    with torch.no_grad():
        wanted = masked(work, plan)(x.double())
        assert off(plan.apply(work)(x.double()), wanted) < 1e-10
        assert not changes or off(work(x.double()), wanted) > 1e-6
    return plan.apply(network)


NETWORKS = {
    "residual": (lambda: residual(width=8, depth=8), images(28, 1)),
    "residual, pre-activation": (lambda: residual(width=8, depth=8, pre_activation=True), images(28, 1)),
    "transformer": (lambda: transformer(depth=2), images(28, 1)),
    "transformer, fused": (lambda: transformer(depth=2, fused=True), images(28, 1)),
    "transformer, as many heads as features a head": (lambda: transformer(depth=1, heads=8), images(28, 1)),
    "lenet5": (lenet5, images(28, 1)),
    "mlp": (lambda: mlp(inputs=64, batch_norm=True), torch.rand(2, 64)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_our_own_networks(name: str) -> None:
    make, x = NETWORKS[name]
    network = make()
    plan = PruneChannels(keep=0.5).plan(network, context(x))
    assert plan.left_out == {}
    small = check(network, x, plan)
    assert sum(p.numel() for p in small.parameters()) == plan.parameters[1] < plan.parameters[0]


def test_by_hand_the_rows_and_columns_that_stay_are_the_largest() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]))
        network[0].bias.fill_(0.0)
        network[2].weight.fill_(0.1)
    plan = PruneChannels(keep=0.67).plan(network, context(torch.rand(2, 2)))
    assert plan.kept == {"0": [1, 2]}
    small = plan.apply(network)
    assert torch.equal(small[0].weight, network[0].weight[[1, 2]])
    assert torch.equal(small[2].weight, network[2].weight[:, [1, 2]])
    assert (small[0].out_features, small[2].in_features) == (2, 2)


def test_attributes_follow() -> None:
    small = PruneChannels(keep=0.5).plan(plain(), context()).apply(plain())
    assert (small[0].out_channels, small[1].num_features, small[3].in_channels, small[3].out_channels) == (4, 4, 4, 3)
    assert (small[7].in_features, small[7].out_features) == (12, 5)


# A comparison that cannot fail proves nothing: every way of being wrong that we can think of must be seen.


def test_a_wrong_row_is_seen() -> None:
    network, x = plain().double(), images().double()
    plan = PruneChannels(keep=0.5).plan(network, context(x))
    small = plan.apply(network)
    removed = next(i for i in range(8) if i not in plan.kept["0"])
    with torch.no_grad():
        wanted = masked(network, plan)(x)
        assert off(small(x), wanted) < 1e-12
        small[0].weight[0] = network[0].weight[removed]
        assert off(small(x), wanted) > 1e-3


@pytest.mark.parametrize("tensor", ["0.weight", "1.running_mean", "1.bias", "3.weight", "7.weight"])
def test_a_wrong_layout_is_seen(tensor: str) -> None:
    """The plan says of one tensor that other indices stay, and the shapes still fit."""
    network = plain()
    plan = PruneChannels(keep=0.5).plan(network, context())
    assert verify(Trial(randomised(network), images()), plan) is None
    written = encode(plan)["PrunedChannels"]
    wrong = copy.deepcopy(written)
    group = plan.layouts[tensor][0][0][0] if tensor != "7.weight" else "3"
    kept = written["kept"][group]
    other = [i for i in range(written["sizes"][group]) if i not in kept][: len(kept)]
    wrong["kept"]["other"], wrong["sizes"]["other"] = other, written["sizes"][group]
    wrong["layouts"][tensor] = json.loads(json.dumps(written["layouts"][tensor]).replace(f'"{group}"', '"other"'))
    assert "differ" in str(verify(Trial(randomised(network), images()), PrunedChannels(**wrong)))


def test_a_flattened_axis_in_the_wrong_order_is_seen() -> None:
    network = plain()
    plan = PruneChannels(keep=0.5).plan(network, context())
    assert plan.layouts["7.weight"][1] == [["3", 4]]
    wrong = encode(plan)["PrunedChannels"] | {"layouts": plan.layouts | {"7.weight": [[[5]], [[4, "3"]]]}}
    assert "differ" in str(verify(Trial(randomised(network), images()), PrunedChannels(**wrong)))


def test_a_normalisation_that_averages_over_all_is_seen() -> None:
    network, x = transformer(depth=1), images(28, 1)
    plan = PruneChannels(keep=0.5).plan(network, context(x))
    assert plan.normalised
    wrong = encode(plan)["PrunedChannels"] | {"normalised": []}
    assert "differ" in str(verify(Trial(randomised(network), x), PrunedChannels(**wrong)))


def test_an_attribute_that_is_forgotten_is_seen() -> None:
    network, x = transformer(depth=1), images(28, 1)
    plan = PruneChannels(keep=0.5).plan(network, context(x))
    edits = [edit for edit in plan.edits if edit["attribute"] != "num_heads"]
    assert len(edits) < len(plan.edits)
    assert (
        verify(Trial(randomised(network), x), PrunedChannels(**encode(plan)["PrunedChannels"] | {"edits": edits}))
        is not None
    )


NORMS = [nn.LayerNorm(6), nn.LayerNorm(6, bias=False), nn.RMSNorm(6), nn.RMSNorm(6, eps=1e-3)]


@pytest.mark.parametrize("norm", NORMS, ids=repr)
def test_normalisations_over_features(norm: nn.Module) -> None:
    network, x = nn.Sequential(nn.Linear(3, 6), norm, nn.Linear(6, 2)), torch.rand(2, 3)
    plan = PruneChannels().plan(network, context(x))
    assert plan.normalised == ["1.weight"]
    check(network, x, plan)
    wrong = PrunedChannels(**encode(plan)["PrunedChannels"] | {"normalised": []})
    assert "differ" in str(verify(Trial(randomised(network), x), wrong))


def test_a_normalisation_over_groups_of_which_parts_go() -> None:
    network, x = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(1, 6), nn.Conv2d(6, 2, 1)), images()
    plan = PruneChannels().plan(network, context(x))
    assert plan.normalised == ["1.weight"]
    check(network, x, plan)


def test_a_normalisation_without_a_weight_is_known_by_its_place() -> None:
    norm = nn.LayerNorm(6, elementwise_affine=False)
    network, x = nn.Sequential(nn.Linear(3, 6), norm, nn.Linear(6, 2)), torch.rand(2, 3)
    plan = PruneChannels().plan(network, context(x))
    assert plan.averaged == {"1:layer_norm:0": [[[2]], [["0"]]]}
    check(network, x, plan)
    wrong = PrunedChannels(**encode(plan)["PrunedChannels"] | {"averaged": {}})
    assert "differ" in str(verify(Trial(randomised(network), x), wrong))


def test_a_normalisation_over_parts_of_groups_without_a_weight_stays() -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 1), nn.GroupNorm(1, 6, affine=False), nn.Conv2d(6, 2, 1))
    with pytest.raises(PlanError, match="group_norm in 1 averages over parts of it and has no weight of its own"):
        PruneChannels().plan(network, context(images()))


def test_outputs_of_another_shape_are_seen() -> None:
    assert "shapes" in str(compare([torch.ones(2)], [torch.ones(3)]))
    assert compare([torch.tensor([float("nan")])], [torch.ones(1)]) is not None


# What the contract of an operation promises.


def test_neutral_keeps_everything() -> None:
    network = plain()
    plan = PruneChannels.neutral().plan(network, context())
    assert plan.kept == {}
    assert digest(plan.apply(network)) == digest(network)


def test_the_network_that_comes_in_is_not_changed() -> None:
    network = plain().train()
    before = digest(network)
    plan = PruneChannels().plan(network, context())
    small = plan.apply(network)
    masked(network, plan)
    assert digest(network) == before
    assert network.training
    assert small.training
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_a_plan_is_data_and_is_replayed_on_a_fresh_network() -> None:
    network = plain()
    plan = PruneChannels().plan(network, context())
    again = decode(json.loads(json.dumps(encode(plan))), {"PrunedChannels": PrunedChannels})
    assert again == plan
    torch.manual_seed(7)
    for module in (built := copy.deepcopy(network)):
        getattr(module, "reset_parameters", lambda: None)()
    fresh = again.apply(built, values=False)
    small = plan.apply(network)
    fresh.load_state_dict(small.state_dict(), strict=True)
    assert torch.equal(fresh(images()), small(images()))


def test_a_plan_is_replayed_on_a_network_without_values() -> None:
    plan = PruneChannels().plan(plain(), context())
    small = plan.apply(plain())
    with torch.device("meta"):
        shell = plain()
    made = plan.apply(shell, values=False)
    assert all(p.is_meta for p in made.parameters())
    made.load_state_dict(small.state_dict(), strict=True, assign=True)
    assert torch.equal(made(images()), small(images()))


def test_a_plan_for_another_network_is_refused() -> None:
    plan = PruneChannels().plan(plain(), context())
    with pytest.raises(PlanError, match=r"made for another network than this Sequential.*0\.weight|no parameter"):
        plan.apply(nn.Sequential(nn.ReLU()))
    other = plain()
    other[0] = nn.Conv2d(3, 10, 3)
    with pytest.raises(PlanError, match=r"expects 0\.\w+ of shape \(8,.*has \(10,"):
        plan.apply(other)
    other = plain()
    other[0].out_channels = 9
    with pytest.raises(PlanError, match=r"0.out_channels to be the size 8, and it is 9"):
        plan.apply(other)


def test_the_same_settings_make_the_same_plan() -> None:
    assert PruneChannels().plan(plain(), context()) == PruneChannels().plan(plain(), context())


def test_a_row_for_everything_that_was_done_or_left() -> None:
    rows = PruneChannels(keep=0.5).plan(plain(), context()).describe()
    assert rows[0] == {"module": "0", "edit": "remove channels", "before": "8", "after": "4"}
    assert rows[-1] == {"module": "7", "edit": "left alone", "before": "an output of the network", "after": ""}


class SharedModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)
        self.again = self.block

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.again(F.relu(self.block(F.relu(self.stem(x))))).mean((2, 3)))


def test_shared_modules_stay_shared() -> None:
    network = SharedModule()
    small = check(network, images(), PruneChannels().plan(network, context()))
    assert small.block is small.again
    assert small.block.weight.shape == (4, 4, 1, 1)


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.one, self.other = (
            nn.Linear(3, 8),
            nn.Linear(4, 8),
            nn.Linear(8, 2),
            nn.Linear(8, 8),
        )

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.left(left) * self.right(right))
        return {"logits": self.one(x), "features": self.other(x)}


def test_several_inputs_and_outputs() -> None:
    network, inputs = Several(), (torch.rand(2, 3), torch.rand(2, 4))
    plan = PruneChannels().plan(network, context(inputs))
    assert set(plan.kept) == {"left"}
    assert verify(Trial(randomised(network), inputs), plan) is None
    assert set(plan.pinned) == {"one", "other"}


# Targets and allocation.


@pytest.mark.parametrize("target", ["parameters", "multiply_adds"])
@pytest.mark.parametrize("allocation", [Uniform(), Global()])
def test_a_target_is_met_and_not_by_much(target: str, allocation: Any) -> None:
    network, x = residual(width=16, depth=8), images(28, 1)
    plan = PruneChannels(**{target: 0.3}, allocation=allocation).plan(network, context(x))
    before, after = getattr(plan, target)
    assert 0.25 < after / before <= 0.3


def test_multiply_adds_are_those_of_the_textbook() -> None:
    plan = PruneChannels(keep=0.5).plan(plain(), context())
    by_hand = [n1 * 3 * 9 * 36 + n1 * n2 * 9 * 16 + n2 * 4 * 5 for n1, n2 in ((8, 6), (4, 3))]
    assert list(plan.multiply_adds) == by_hand


def test_a_target_out_of_reach_says_how_far_one_can_go() -> None:
    with pytest.raises(PlanError, match=r"to 0.01 of its parameters: .* remain. Ask for 0\.\d+ or more") as error:
        PruneChannels(parameters=0.01).plan(plain(), context())
    least = float(str(error.value).split("Ask for ")[1].split()[0])
    PruneChannels(parameters=least).plan(plain(), context())


def test_a_network_without_groups_says_why() -> None:
    with pytest.raises(PlanError, match="Nothing in this network can be pruned: an output of the network"):
        PruneChannels().plan(nn.Linear(3, 2), context(torch.rand(2, 3)))


def test_no_group_is_ever_emptied() -> None:
    for allocation in (Uniform(), Global()):
        plan = PruneChannels(keep=0.01, allocation=allocation).plan(plain(), context())
        assert all(len(indices) >= 1 for indices in plan.kept.values())


def test_the_floor_and_the_multiple() -> None:
    plan = PruneChannels(keep=0.01, floor=0.5).plan(plain(), context())
    assert {name: len(kept) for name, kept in plan.kept.items()} == {"0": 4, "3": 3}
    plan = PruneChannels(keep=0.01, floor=0.6, round_to=2).plan(plain(), context())
    assert {name: len(kept) for name, kept in plan.kept.items()} == {"0": 6, "3": 4}
    plan = PruneChannels(keep=0.6, round_to=4).plan(plain(), context())
    assert {name: len(kept) for name, kept in plan.kept.items()} == {"0": 4, "3": 4}


def test_where_and_exclude_choose_groups_by_module() -> None:
    assert set(PruneChannels(where=nn.Conv2d).plan(plain(), context()).kept) == {"0", "3"}
    assert set(PruneChannels(where="0").plan(plain(), context()).kept) == {"0"}
    assert set(PruneChannels(exclude="0").plan(plain(), context()).kept) == {"3"}
    assert set(PruneChannels(exclude=("1", "5")).plan(plain(), context()).kept) == {"3"}
    with pytest.raises(PlanError, match=r"No group is chosen.*Groups that can be pruned: 0, 3"):
        PruneChannels(where=nn.Flatten).plan(plain(), context())


def test_one_target_only() -> None:
    assert PruneChannels().keep == 0.5
    assert PruneChannels(parameters=0.5).keep is None
    with pytest.raises(SettingError, match="keep and parameters are both targets"):
        PruneChannels(keep=0.5, parameters=0.5)
    with pytest.raises(SettingError, match="keep: got 0"):
        PruneChannels(keep=0)


def test_global_allocation_takes_where_it_hurts_least() -> None:
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        network[0].weight[:6] *= 1e-3
        network[0].bias[:6] *= 1e-3
        network[2].weight[:, :6] *= 1e-3
    plan = PruneChannels(keep=0.6, allocation=Global()).plan(network, context(torch.rand(2, 4)))
    assert len(plan.kept["0"]) == 2
    assert "2" not in plan.kept or len(plan.kept["2"]) == 8


class Strict(nn.Module):
    """Asserts a width that it was written with, and does not say why."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.one(x).relu()
        if hidden.shape[1] != 6:
            raise AssertionError
        y: Tensor = self.two(hidden)
        return y


def test_a_network_that_refuses_without_a_word_is_left_alone() -> None:
    with pytest.raises(PlanError, match="AssertionError: it does not say why"):
        PruneChannels().plan(Strict(), context(torch.rand(2, 4)))


# Networks whose code does not follow its sizes.


class Stubborn(nn.Module):
    """The width of the second branch is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(3, 8), nn.Linear(8, 12), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.two(F.relu(self.one(x))).reshape(-1, 12))


def test_surgery_that_is_not_proven_is_left_out_with_its_reason() -> None:
    network, x = Stubborn(), torch.rand(2, 3)
    plan = PruneChannels().plan(network, context(x))
    assert set(plan.kept) == {"one"}
    assert "does not run" in plan.left_out["two"] or "shapes" in plan.left_out["two"]
    check(network, x, plan)
    assert {"module": "two", "edit": "left alone"}.items() <= plan.describe()[1].items()


class Chance(nn.Module):
    """An attribute holds the width by chance, and the code reads the width from the tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.repeats, self.one, self.head = 4, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        return self.head(x.reshape(len(x), x.shape[1])) * self.repeats


def test_an_attribute_that_holds_a_size_by_chance_is_left_as_it_is() -> None:
    plan = PruneChannels().plan(Chance(), context(torch.rand(3, 3)))
    assert plan.kept
    assert [edit["attribute"] for edit in plan.edits] == ["out_features", "in_features"]


class Picky(nn.Module):
    """A parameter that must be positive, and a batch of three at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head, self.scale = nn.Linear(3, 8), nn.Linear(8, 2), nn.Parameter(torch.rand(8) + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((self.one(x) * self.scale.sqrt()).view(3, -1, self.one.out_features).mean(1))


def test_a_network_that_takes_neither_one_example_nor_random_parameters() -> None:
    network, x = Picky(), torch.rand(6, 3)
    plan = PruneChannels().plan(network, context(x))
    assert plan.left_out == {}
    small = plan.apply(network.double())
    assert off(small(x.double()), masked(network, plan)(x.double())) < 1e-12


class Halves(nn.Module):
    """The size of a split is computed from an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.width, self.one, self.head = 8, nn.Linear(3, 8), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.one(x).split(self.width // 2, 1)
        return self.head(one * other.sigmoid())


def test_a_number_that_is_computed_from_an_attribute() -> None:
    network, x = Halves(), torch.rand(3, 3)
    plan = PruneChannels().plan(network, context(x))
    assert plan.layouts["one.weight"][0] == [[2, "one"]]
    assert check(network, x, plan).width == 4


class Counted(nn.Module):
    """Two blocks of channels, and the two is written into the code."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.one(x).view(len(x), 2, -1).transpose(1, 2).flatten(1))


def test_where_whole_blocks_cannot_go_parts_of_every_block_do() -> None:
    network, x = Counted(), torch.rand(3, 3)
    plan = PruneChannels().plan(network, context(x))
    assert plan.layouts["one.weight"][0] == [[2, "one"]]
    assert len(plan.kept["one"]) == 2
    check(network, x, plan)


def test_heads_of_pytorchs_own_attention_are_removed() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, dropout=0), 2)
    network, x = nn.Sequential(nn.Linear(5, 12), encoder, nn.Linear(12, 3)), torch.rand(2, 7, 5)
    plan = PruneChannels().plan(network, context(x))
    assert plan.left_out == {}
    assert plan.opened == ["1.layers.0.self_attn", "1.layers.1.self_attn"]
    small = check(network, x, plan)
    assert small[1].layers[0].self_attn.num_heads == 2
    assert small[1].layers[0].self_attn.in_proj_weight.shape == (3 * 2 * 3, 6)


def test_a_plan_that_opens_attention_is_refused_elsewhere() -> None:
    encoder = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, dropout=0)
    plan = PruneChannels().plan(nn.Sequential(encoder, nn.Linear(12, 3)), context(torch.rand(2, 7, 12)))
    assert plan.opened == ["0.self_attn"]
    with pytest.raises(PlanError, match="made for another network"):
        plan.apply(nn.Sequential(nn.Linear(12, 12)))


# Random networks: whatever is put together from these pieces must come out right.


class Pieces(nn.Module):
    """A stem, then pieces drawn from a list, each keeping the resolution; a head."""

    def __init__(self, pieces: list[int], widths: list[int]) -> None:
        super().__init__()
        self.pieces = pieces
        self.layers = nn.ModuleList()
        width = widths[0] * 2
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        for piece, wide in zip(pieces, widths, strict=True):
            layer, width = self._piece(piece, width, wide * 2)
            self.layers.append(layer)
        self.head = nn.Linear(width * 4, 3)

    def _piece(self, piece: int, width: int, wide: int) -> tuple[nn.Module, int]:
        if piece == 0:  # plain
            return nn.Sequential(nn.Conv2d(width, wide, 3, padding=1), nn.BatchNorm2d(wide)), wide
        if piece == 1:  # depthwise
            return nn.Conv2d(width, width, 3, padding=1, groups=width), width
        if piece == 2:  # grouped, two of everything
            return nn.Conv2d(width, wide, 1, groups=2), wide
        if piece == 3:  # added
            return nn.Sequential(nn.Conv2d(width, wide, 1), nn.SiLU(), nn.Conv2d(wide, width, 1)), width
        if piece == 4:  # concatenated
            return nn.Conv2d(width, wide, 1), width + wide
        if piece == 5:  # gated
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, width, 1), nn.Sigmoid()), width
        if piece == 6:  # normalised over groups
            return nn.GroupNorm(2, width), width
        return nn.PReLU(width), width  # 7: a slope for each channel; 8: shuffled before

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for piece, layer in zip(self.pieces, self.layers, strict=True):
            if piece == 3:
                x = x + layer(x)
            elif piece == 4:
                x = torch.cat([x, layer(x)], 1)
            elif piece == 5:
                x = x * layer(x)
            elif piece == 8:
                n, c, h, w = x.shape
                x = layer(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))
            else:
                x = F.relu(layer(x))
        return self.head(F.adaptive_avg_pool2d(x, 2).flatten(1))


@given(
    pieces=st.lists(st.integers(0, 8), min_size=1, max_size=5),
    widths=st.lists(st.integers(2, 4), min_size=5, max_size=5),
    keep=st.sampled_from([0.3, 0.5, 0.75]),
)
@given_settings(max_examples=25, deadline=None, derandomize=True)
def test_random_networks(pieces: list[int], widths: list[int], keep: float) -> None:
    torch.manual_seed(0)
    network = Pieces(pieces, widths[: len(pieces)])
    plan = PruneChannels(keep=keep, allocation=Global()).plan(network, context())
    assert plan.left_out == {}
    if plan.kept:
        check(network, images(), plan, changes=False)
