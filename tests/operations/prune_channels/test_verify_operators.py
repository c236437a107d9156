"""One operator between two layers: what can be removed around it is removed, and equals masking."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Context, encode
from lessen.core.errors import PlanError
from lessen.operations import PruneChannels
from lessen.operations.prune_channels import attempt, masked
from lessen.operations.prune_channels.verify import compare, misfit, randomised


class Between(nn.Module):
    """A convolution of 8 channels on 4 x 4 positions, an operator, a convolution or linear layer."""

    def __init__(self, operator: Callable[[Tensor], Tensor], example: Tensor) -> None:
        super().__init__()
        self.one, self.operator = nn.Conv2d(3, 8, 1), operator
        made = operator(self.one(example))
        self.head = nn.Conv2d(made.shape[1], 2, 1) if made.ndim == 4 else nn.Linear(made.shape[-1], 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operator(self.one(x)))


X = torch.rand(2, 3, 4, 4)

# name -> (operator, how many of the 8 channels are left at a half)
WORKS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "pixel shuffle": (lambda x: F.pixel_shuffle(x, 2), 4),
    "pixel unshuffle": (lambda x: F.pixel_unshuffle(x, 2), 4),
    "channel shuffle": (lambda x: F.channel_shuffle(x, 2), 4),
    "glu": (lambda x: F.glu(x, 1), 4),
    "maxout": (lambda x: torch.maximum(*x.chunk(2, 1)), 4),
    "stack and flatten": (lambda x: torch.stack([x, -x], 1).flatten(1, 2), 4),
    "stack behind": (lambda x: torch.stack([x, -x], 2).flatten(1, 2), 4),
    "concatenation with itself": (lambda x: torch.cat([x, x.relu(), x.tanh()], 1), 4),
    "reflected positions": (lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), 4),
    "rolled positions": (lambda x: x.roll((1, 2), (2, 3)), 4),
    "interpolated": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), 4),
    "largest of the positions": (lambda x: x.amax((2, 3)), 4),
    "softmax over positions": (lambda x: x.flatten(2).softmax(-1).sum(-1), 4),
    "windows": (lambda x: x.view(2, 8, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, x.shape[1]), 8),
    "windows of any width": (
        lambda x: x.permute(0, 2, 3, 1).reshape(-1, 2, 2, 2, 2, x.shape[1]).transpose(2, 3).flatten(0, 2).flatten(1, 2),
        4,
    ),
    "flattened and back": (lambda x: x.flatten(1).unflatten(1, (-1, 4, 4)), 4),
    "repeated": (lambda x: x.repeat(1, 2, 1, 1), 4),
    "repeated one by one": (lambda x: x.repeat_interleave(2, 1), 4),
    "moved": (lambda x: x.movedim(1, -1).flatten(1, 2), 4),
    "positions last": (lambda x: x.transpose(1, 3).swapaxes(1, 2).contiguous().flatten(1, 2), 4),
    "expanded": (lambda x: x.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4), 4),
    "written over": (lambda x: torch.zeros_like(x).copy_(x), 4),
    "in place": (lambda x: x.clone().mul_(2).add_(x).clamp_(-1, 1), 4),
    "einsum over positions": (lambda x: torch.einsum("nchw,hw->nc", x, torch.ones(4, 4, dtype=x.dtype)), 4),
    "instance normalisation": (F.instance_norm, 4),
    "dims swapped": (lambda x: x.swapdims(1, 2).movedim((2, 1), (-1, -2)).flatten(1, 2), 4),
    "narrowed positions": (lambda x: x.narrow(2, 1, 2).squeeze(0).unsqueeze(2).squeeze(2), 4),
    "tiled": (lambda x: x.tile(2, 1, 1), 4),
    "added by a product": (lambda x: torch.baddbmm(x.flatten(2), x.flatten(2), torch.ones(2, 16, 16).to(x)).sum(2), 0),
    "one position": (lambda x: x[:, :, 1, 2], 4),
    "masked": (lambda x: x.masked_fill(x > 0.5, 0.0), 4),
    "where": (lambda x: torch.where(x > 0, x, 0.1), 4),
    "split by numbers": (lambda x: torch.cat(x.split([3, 5], 1)[::-1], 1), 8),
    "unfolded": (lambda x: F.unfold(x, 3, padding=1).transpose(1, 2), 4),
    "unfolded and folded": (lambda x: F.fold(F.unfold(x, 2, stride=2).relu(), (4, 4), 2, stride=2), 4),
    "windows along an axis": (lambda x: x.unfold(2, 2, 1).unfold(3, 2, 2).amax((-1, -2)), 4),
    "the first half": (lambda x: x[:, : x.shape[1] // 2], 4),
    "largest channel": (lambda x: x.amax(1, keepdim=True) * x, 4),
    "sum of channels": (lambda x: x.sum(1, keepdim=True), 4),
    "sum of everything": (lambda x: x * x.sum((1, 2, 3), keepdim=True), 4),
    "normalised over channels": (lambda x: F.normalize(x, dim=1), 4),
    "root mean square by hand": (lambda x: x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt(), 4),
    "variance by hand": (lambda x: (x - x.mean(1, True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt(), 4),
    "deviation by hand": (lambda x: x / (x.std((1, 2), keepdim=True) + 1e-5), 4),
    "length": (lambda x: x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-5), 4),
    "response normalisation": (lambda x: x * (g := x.norm(p=2, dim=(2, 3), keepdim=True)) / (g.mean(1, True) + 1), 4),
    "layer normalisation without weights": (lambda x: F.layer_norm(x.movedim(1, -1), x.shape[1:2]).movedim(-1, 1), 4),
    "softmax over channels": (lambda x: x.softmax(1), 0),
}


@pytest.mark.parametrize("name", WORKS)
def test_operator(name: str) -> None:
    operator, left = WORKS[name]
    network = Between(operator, X)
    try:
        plan = PruneChannels().plan(network, Context(inputs=X))
    except PlanError:
        assert left in {0, 8}  # nothing, and that is said
        return
    assert left != 8
    work = randomised(network, seed=3)
    with torch.no_grad():
        assert compare([plan.apply(work)(X.double())], [masked(work, plan)(X.double())]) is None
    if left:
        assert plan.apply(network).one.out_channels == left


STAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "sorted channels": lambda x: x.sort(1)[0],
    "rolled channels": lambda x: x.roll(1, 1),
    "every other channel": lambda x: x[:, ::2],
    "picked channels": lambda x: x[:, [0, 3, 5]],
    "channels that become positions": lambda x: x.transpose(1, 2),
    "cumulated": lambda x: x.cumsum(1),
}


@pytest.mark.parametrize("name", STAYS)
def test_operators_that_need_every_channel(name: str) -> None:
    with pytest.raises(PlanError, match="Nothing in this network can be pruned"):
        PruneChannels().plan(Between(STAYS[name], X), Context(inputs=X))


class Insists(nn.Module):
    """A network behind a layer whose width is written into the code, so that somebody must be blamed for a plan."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.wide, self.back, self.network = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1), network

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        if wide.shape[1] != 8:
            raise ValueError(f"8 channels are expected, not {wide.shape[1]}")
        made: Tensor = self.network(self.back(wide))
        return made


def planned(network: nn.Module) -> dict[str, Any] | str:
    try:
        return encode(PruneChannels().plan(network, Context(inputs=X)))
    except PlanError as error:
        return str(error)


@pytest.mark.parametrize("name", [*WORKS, *STAYS])
def test_a_plan_is_the_same_whether_shapes_alone_are_asked_first_or_not(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Insists(Between(WORKS[name][0] if name in WORKS else STAYS[name], X))
    refused: list[str | None] = []

    def asked(*given: Any) -> str | None:
        refused.append(misfit(*given))
        return refused[-1]

    monkeypatch.setattr(attempt, "misfit", asked)
    found = planned(network)
    assert any(refused)
    monkeypatch.setattr(attempt, "misfit", lambda *_: None)
    assert found == planned(network)
    assert "8 channels are expected" in str(found)


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1 over what each output sums."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias)


def test_a_standardised_weight_is_so_over_the_inputs_that_stay() -> None:
    network = nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 6, 3), nn.ReLU(), Standardised(6, 2, 1))
    x = torch.rand(2, 3, 8, 8)
    plan, work = PruneChannels().plan(network, Context(inputs=x)), randomised(network, seed=3)
    assert plan.sizes == {"0": 8, "2": 6}
    assert plan.left_out == {}
    with torch.no_grad():
        wanted = masked(work, plan)(x.double())
        assert compare([plan.apply(work)(x.double())], [wanted]) is None
        assert compare([work(x.double())], [wanted]) is not None
