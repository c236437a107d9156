"""Groups found in small networks, one operator each; and what is left alone, with its reason."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import NetworkError
from lessen.surgery.coupling import Coupling, analyse


def members(coupling: Coupling, group: str) -> set[tuple[str, int]]:
    return {(member.tensor, member.dim) for member in coupling.groups[group].members}


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.inner = nn.Conv2d(8, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.outer = nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(F.relu(self.norm(self.inner(x))))
        return self.head(x.mean((2, 3)))


def test_a_shortcut_ties_what_it_adds_and_inputs_and_outputs_stay() -> None:
    coupling = analyse(Shortcut(), torch.rand(2, 3, 8, 8))
    assert {name: group.size for name, group in coupling.groups.items()} == {"stem": 8, "inner": 6}
    assert members(coupling, "stem") == {
        ("stem.weight", 0),
        ("stem.bias", 0),
        ("inner.weight", 1),
        ("outer.weight", 0),
        ("outer.bias", 0),
        ("head.weight", 1),
    }
    names = {"inner.weight", "inner.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"}
    assert members(coupling, "inner") == {(name, 0) for name in names} | {("outer.weight", 1)}
    consumers = {m.tensor for m in coupling.groups["inner"].members if m.consumes}
    assert consumers == {"outer.weight"}
    assert coupling.pinned["stem.weight", 1] == "an input of the network"
    assert coupling.pinned["head.weight", 0] == "an output of the network"


def test_the_network_is_not_changed() -> None:
    network = Shortcut().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    analyse(network, torch.rand(2, 3, 8, 8))
    assert network.training
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in before.items())
    assert all(p.requires_grad for p in network.parameters())


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)
        self.head = nn.Linear(9 * 6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.one(x), self.other(x)], 1).flatten(1))


def test_a_concatenation_that_is_flattened() -> None:
    coupling = analyse(Flattened(), torch.rand(2, 3, 2, 3))
    assert {name: group.size for name, group in coupling.groups.items()} == {"one": 4, "other": 5}
    assert coupling.layouts["head.weight"][1] == [[[["one"], ["other"]], 6]]


def test_a_depthwise_convolution_goes_with_what_it_reads() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, groups=8), nn.Conv2d(16, 4, 1))
    coupling = analyse(network, torch.rand(2, 3, 8, 8))
    assert {name: group.size for name, group in coupling.groups.items()} == {"0": 8}
    assert coupling.layouts["1.weight"][0] == [["0", 2]]
    assert coupling.layouts["2.weight"][1] == [["0", 2]]


def test_whole_groups_of_a_grouped_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 8, 3, groups=4), nn.Conv2d(8, 4, 1))
    coupling = analyse(network, torch.rand(2, 3, 8, 8))
    assert {name: group.size for name, group in coupling.groups.items()} == {"0": 4}
    assert coupling.layouts["0.weight"][0] == [["0", 3]]
    assert coupling.pinned["1.weight", 1] == "whole blocks of it are removed instead"


class Gate(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(x * gate * self.scale)


def test_squeeze_and_excite_and_a_layer_scale() -> None:
    coupling = analyse(Gate(), torch.rand(2, 3, 8, 8))
    assert {name: group.size for name, group in coupling.groups.items()} == {"stem": 8, "down": 2}
    assert {("up.weight", 0), ("scale", 0), ("down.weight", 1)} <= members(coupling, "stem")


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.stem(x).chunk(2, 1)
        x = torch.cat([one, self.branch(other)], 1)
        n, c, h, w = x.shape
        return self.head(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def test_a_channel_shuffle() -> None:
    coupling = analyse(Shuffled(), torch.rand(2, 3, 8, 8))
    assert {name: group.size for name, group in coupling.groups.items()} == {"stem": 4}
    assert coupling.layouts["stem.weight"][0] == [[2, "stem"]]
    assert coupling.layouts["head.weight"][1] == [["stem", 2]]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(12), nn.Linear(12, 3 * 20), nn.Linear(20, 12)
        self.position, self.head = nn.Parameter(torch.rand(1, 5, 12)), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(-1) * self.position
        q, k, v = self.qkv(self.norm(x)).reshape(len(x), 5, 3, 4, 5).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


def test_heads_widths_and_normalisations_of_a_transformer() -> None:
    coupling = analyse(Attention(), torch.rand(2, 5))
    assert {name: group.size for name, group in coupling.groups.items()} == {"out": 12, "qkv": 4}
    assert coupling.layouts["qkv.weight"] == ([[3, "qkv", 5]], [["out"]])
    assert coupling.layouts["out.weight"][1] == [["qkv", 5]]
    assert coupling.normalised == {"norm.weight"}


class Grouped(nn.Module):
    """Two query heads share each head of keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv, self.out = nn.Linear(6, 4 * 3), nn.Linear(6, 2 * 2 * 3), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        q = self.q(x).unflatten(-1, (4, 3)).transpose(1, 2)
        k, v = self.kv(x).unflatten(-1, (2, 2, 3)).permute(2, 0, 3, 1, 4).unbind(0)
        k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_query_heads_go_with_the_head_of_keys_they_share() -> None:
    coupling = analyse(Grouped(), torch.rand(2, 5, 6))
    assert [group.size for group in coupling.groups.values()] == [2]
    (name,) = coupling.groups
    assert coupling.layouts["q.weight"][0] == [[name, 6]]
    assert coupling.layouts["kv.weight"][0] == [[2, name, 3]]


def test_group_normalisation_loses_whole_groups() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(4, 8), nn.Conv2d(8, 2, 1))
    coupling = analyse(network, torch.rand(2, 3, 4, 4))
    assert coupling.layouts["1.weight"][0] == [["0", 2]]
    assert coupling.groups["0"].size == 4
    assert coupling.normalised == frozenset()


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.head = nn.Linear(6, 6), nn.Linear(6, 2)
        self.other = nn.Linear(6, 6)
        self.other.weight = self.one.weight
        self.first = nn.Linear(3, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(F.relu(self.one(self.first(x)))))


def test_tied_weights_tie_both_their_axes() -> None:
    coupling = analyse(Tied(), torch.rand(2, 3))
    assert [group.size for group in coupling.groups.values()] == [6]
    (group,) = coupling.groups
    assert {("one.weight", 0), ("one.weight", 1), ("head.weight", 1), ("first.weight", 0)} <= members(coupling, group)


class Strange(nn.Module):
    """Sorting mixes channels, and its weight stands behind an operator without a rule."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.one, self.head = what, nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        if self.what == "sort":
            x = x.sort(-1)[0]
        elif self.what == "softmax":
            x = x.softmax(-1)
        elif self.what == "unknown":
            x = torch.linalg.svdvals(x)[:, None] * x
        elif self.what == "fixed":
            x = x * torch.arange(6.0)
        elif self.what == "product":
            x = x @ x.T @ x
        return self.head(x)


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("sort", "entries depend on one another in sort in the network"),
        ("softmax", "entries depend on one another in softmax in the network"),
        ("unknown", "linalg_svdvals in the network has no rule"),
        ("fixed", "numbers that depend on their place"),
        ("product", "both sides of matmul in the network are activations"),
    ],
)
def test_what_cannot_be_removed_is_named_with_its_reason(what: str, reason: str) -> None:
    coupling = analyse(Strange(what), torch.rand(6 if what == "unknown" else 2, 3))
    assert coupling.groups == {}
    assert reason in coupling.pinned["one.weight", 0]


def test_without_the_strange_operator_the_group_is_there() -> None:
    assert set(analyse(Strange("nothing"), torch.rand(2, 3)).groups) == {"one"}


def test_a_network_that_cannot_be_exported_says_so() -> None:
    class Branches(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    with pytest.raises(NetworkError, match=r"Branches cannot be read by torch.export"):
        analyse(Branches(), torch.rand(2, 3))


def test_several_inputs_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.head = nn.Linear(3, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, *, left: Tensor, right: Tensor) -> dict[str, Tensor]:
            x = self.one(left) + self.other(right)
            return {"logits": self.head(x), "again": self.head(x.relu())}

    coupling = analyse(Two(), {"left": torch.rand(2, 3), "right": torch.rand(2, 4)})
    assert members(coupling, "one") >= {("one.weight", 0), ("other.weight", 0), ("head.weight", 1)}
