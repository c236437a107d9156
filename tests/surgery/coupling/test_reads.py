"""Which numbers a network's code reads from shapes, and what follows for the axes."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Context
from lessen.operations import PruneChannels
from lessen.operations.prune_channels import masked
from lessen.operations.prune_channels.verify import compare, randomised
from lessen.surgery.coupling import analyse
from lessen.surgery.coupling.reads import Computed, Dim, read_numbers

FIRST = (("", 0),)
"""The first input of a network."""


class Arithmetic(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape
        return x.reshape(len(x), 2, c // 2).reshape(n, -1).view(x.size(0), c * 1 + 0)


def test_numbers_remember_where_they_were_read_and_what_was_computed_of_them() -> None:
    reads = read_numbers(Arithmetic(), torch.rand(3, 4))
    first = ("reshape_1", "method_descriptor.reshape")
    assert [int(number) for number in reads.numbers[first]] == [3, 2, 2]
    assert reads.origin(first, 3, 0) == 3  # Python's own len() forgets
    assert reads.origin(("reshape_2", "method_descriptor.reshape"), 3, 0) == Dim(FIRST, 0)
    assert reads.origin(first, 2, 1) == 2
    assert reads.origin(first, 2, 2) == Computed(operator.floordiv, Dim(FIRST, 1), 2)
    assert reads.origin(first, 2, None) == 2  # one of the two was not read from a shape
    times = Computed(operator.mul, Dim(FIRST, 1), 1)
    assert reads.origin(("view_1", "method_descriptor.view"), 4, 1) == Computed(operator.add, times, 0)
    assert reads.sites["view_1", "method_descriptor.view"] == ":view:0"


class Heads(nn.Module):
    """Two heads of 3 in a width of 6: the code takes the width of its input for that of all heads."""

    def __init__(self, *, how: str) -> None:
        super().__init__()
        self.how, self.heads = how, 2
        self.stem, self.qkv, self.out, self.head = nn.Linear(4, 6), nn.Linear(6, 18), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        n, length, width = x.shape
        if self.how == "width of a head":
            parts = self.qkv(x).view(n, length, 3, self.heads, width // self.heads)
        else:
            parts = self.qkv(x).view(n, length, 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        y = y.flatten(2) if self.how == "width of a head" else y.reshape(n, length, width)
        return self.head((x + self.out(y)).mean(1))


def test_a_width_that_the_code_takes_for_that_of_all_heads_loses_blocks_with_the_heads() -> None:
    for how in ("width of all heads", "width of a head"):
        network, x = Heads(how=how), torch.rand(2, 5, 4)
        coupling = analyse(network, x)
        assert [group.size for group in coupling.groups.values()] == [2]
        (name,) = coupling.groups
        assert coupling.layouts["stem.weight"][0] == [[name, 3]]
        assert coupling.layouts["qkv.weight"] == ([[3, name, 3]], [[name, 3]])
        plan, work = PruneChannels().plan(network, Context(inputs=x)), randomised(network, seed=1)
        with torch.no_grad():
            assert compare([plan.apply(work)(x.double())], [masked(work, plan)(x.double())]) is None
        assert plan.apply(network).heads == 1


class Other(nn.Module):
    """What is read from a shape fits whatever goes: the axes need not be one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.one(x)
        n, c, h, w = x.shape
        return self.two(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def test_axes_whose_sizes_are_equal_anyway_stay_as_they_are() -> None:
    coupling = analyse(Other(), torch.rand(2, 3, 4, 4))
    assert [group.size for group in coupling.groups.values()] == [2]
    assert coupling.layouts["two.weight"][1] in ([["one", 2]], [[2, "one"]])
