"""Bridges: every pair of shapes they know, what stays exact, and what they refuse."""

import pytest
import torch
from torch import nn

from lessen.core import Bridge, Card, encode
from lessen.core.errors import ShapeError
from lessen.knowledge import (
    AttentionPoolBridge,
    AutoBridge,
    ChannelBridge,
    FusionBridge,
    PoolBridge,
    ResolutionBridge,
    TokenBridge,
    WidthBridge,
    bridge_for,
)

PAIRS = [
    ((3, 8), (3, 5)),
    ((3, 10, 8), (3, 10, 5)),
    ((3, 10, 8), (3, 17, 5)),
    ((3, 17, 8), (3, 9, 8)),
    ((3, 18, 8), (3, 10, 8)),
    ((3, 8, 6, 6), (3, 5, 6, 6)),
    ((3, 8, 6, 6), (3, 8, 3, 3)),
    ((3, 8, 6, 6), (3, 5, 7, 3)),
    ((3, 8, 3, 3), (3, 5, 6, 6)),
    ((3, 10, 8), (3, 5, 3, 3)),
    ((3, 10, 8), (3, 5, 6, 6)),
    ((3, 13, 8), (3, 8, 3, 4)),
    ((3, 8, 3, 4), (3, 13, 8)),
    ((3, 8, 6, 6), (3, 17, 5)),
    ((3, 8, 3, 3), (3, 9, 5)),
    ((3, 8, 6, 6), (3, 5)),
    ((3, 10, 8), (3, 8)),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS, ids=str)
def test_auto_bridge_gives_the_teachers_shape_and_a_gradient_to_every_weight(
    student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    module = bridge_for(student, teacher)
    x = torch.randn(student, requires_grad=True)
    out = module(x)
    assert out.shape == teacher
    out.square().sum().backward()
    assert x.grad is not None
    assert bool(x.grad.abs().sum() > 0)
    assert all(weight.grad is not None for weight in module.parameters())


@pytest.mark.parametrize("shape", [(3, 8), (3, 10, 8), (3, 8, 6, 6), (3, 2, 2, 2, 2)])
def test_equal_shapes_need_nothing(shape: tuple[int, ...]) -> None:
    assert isinstance(AutoBridge().build(shape, shape), nn.Identity)
    # The number of examples does not matter: a bridge is built once and used for every batch.
    assert isinstance(AutoBridge().build(shape, (7, *shape[1:])), nn.Identity)


def test_a_bridge_has_weights_only_where_something_must_be_learned() -> None:
    assert not list(bridge_for((2, 8, 6, 6), (2, 8, 3, 3)).parameters())
    assert not list(bridge_for((2, 10, 8), (2, 8, 3, 3)).parameters())
    count = sum(p.numel() for p in bridge_for((2, 8, 6, 6), (2, 5, 3, 3)).parameters())
    assert count == 8 * 5 + 2 * 5
    plain = AutoBridge(channels=ChannelBridge(normalize=False)).build((2, 8, 6, 6), (2, 5, 3, 3))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in plain.modules())


def test_tokens_and_grid_are_each_others_inverse() -> None:
    grid = torch.arange(2 * 5 * 3 * 4).float().view(2, 5, 3, 4)
    tokens = TokenBridge().build(grid.shape, (2, 13, 5))(grid)
    assert torch.equal(TokenBridge().build(tokens.shape, grid.shape)(tokens), grid)
    # Row by row: token 1 + 4 is the first of the second row. A transposed grid would differ.
    assert torch.equal(tokens[:, 1 + 4], grid[:, :, 1, 0])
    assert not torch.equal(tokens[:, 1 + 4], grid.transpose(2, 3).reshape(grid.shape)[:, :, 1, 0])
    assert torch.allclose(tokens[:, 0], grid.mean((2, 3)))


def test_a_class_token_is_kept_when_the_grid_changes() -> None:
    tokens = torch.randn(2, 1 + 16, 5)
    out = TokenBridge().build(tokens.shape, (2, 1 + 4, 5))(tokens)
    assert torch.equal(out[:, 0], tokens[:, 0])
    assert torch.allclose(out[:, 1], tokens[:, 1:].view(2, 4, 4, 5)[:, :2, :2].mean((1, 2)), atol=1e-6)


def test_averaging_down_is_the_mean_and_up_keeps_a_constant() -> None:
    x = torch.randn(2, 3, 4, 4)
    down = ResolutionBridge().build(x.shape, (2, 9, 2, 2))(x)
    assert torch.allclose(down[:, :, 0, 0], x[:, :, :2, :2].mean((2, 3)), atol=1e-6)
    up = ResolutionBridge().build((2, 3, 2, 2), (2, 3, 5, 7))(torch.full((2, 3, 2, 2), 0.5))
    assert torch.allclose(up, torch.full((2, 3, 5, 7), 0.5), atol=1e-6)


@pytest.mark.parametrize(
    ("bridge", "student", "teacher"),
    [
        (AutoBridge(), (3, 8), (3, 8, 4, 4)),
        (AutoBridge(), (3, 8), (3, 4, 8)),
        (AutoBridge(), (3, 2, 2, 2, 2), (3, 8)),
        (ChannelBridge(), (3, 8), (3, 5)),
        (WidthBridge(), (3, 8, 4, 4), (3, 5, 4, 4)),
        (ResolutionBridge(), (3, 8, 4), (3, 8, 2)),
        (PoolBridge(), (3, 8), (3, 5)),
        (AttentionPoolBridge(), (3, 8), (3, 5)),
        (FusionBridge(), (3, 8, 4, 4), (3, 5, 4, 4)),
        (FusionBridge(), ((3, 8, 4, 4),), ((3, 8, 4, 4), (3, 5))),
        (FusionBridge(), ((3, 8, 4, 4), (3, 9, 6)), ((3, 8, 4, 4), (3, 5))),
        (TokenBridge(prefix=1), (3, 16, 8), (3, 5, 8)),
        (TokenBridge(), (3, 15, 8), (3, 5, 8)),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error_that_names_both_shapes(
    bridge: Bridge, student: tuple[int, ...], teacher: tuple[int, ...]
) -> None:
    with pytest.raises(ShapeError) as error:
        bridge.build(student, teacher)
    assert str(student) in str(error.value)
    assert str(teacher) in str(error.value)


@pytest.mark.parametrize(
    "bridge",
    [
        AttentionPoolBridge(),
        AutoBridge(),
        ChannelBridge(),
        FusionBridge(),
        WidthBridge(),
        ResolutionBridge(),
        TokenBridge(),
        PoolBridge(),
    ],
    ids=str,
)
def test_every_bridge_keeps_the_contract(bridge: Bridge) -> None:
    assert isinstance(bridge, Bridge)
    assert isinstance(bridge.card, Card)
    assert list(encode(bridge)) == [type(bridge).__name__]


def test_the_caller_seeds_the_weights() -> None:
    def build() -> torch.Tensor:
        torch.manual_seed(3)
        return next(bridge_for((2, 8, 6, 6), (2, 5, 3, 3)).parameters())

    assert torch.equal(build(), build())


def test_attention_pooling_starts_as_the_mean_and_looks_where_its_query_points() -> None:
    for x in (torch.randn(2, 5, 8), torch.randn(2, 8, 3, 4)):
        pool = AttentionPoolBridge().build(x.shape, (2, 8))
        mean = x.mean((2, 3)) if x.ndim == 4 else x.mean(1)
        assert torch.allclose(pool(x), mean, atol=1e-6)
        assert bool((torch.autograd.grad(pool(x).square().sum(), pool.query_C)[0] != 0).any())
        tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        pool.query_C.data.copy_(1e4 * torch.eye(8)[3])
        largest = tokens[torch.arange(2), tokens[:, :, 3].argmax(1)]
        assert torch.allclose(pool(x), largest, atol=1e-5)
        assert not torch.allclose(pool(x), mean, atol=1e-2)
    both = AutoBridge(pool=AttentionPoolBridge()).build((3, 10, 8), (3, 5))
    assert both(torch.randn(3, 10, 8)).shape == (3, 5)


BEFORE = ((3, 4, 8, 8), (3, 6, 4, 4), (3, 8, 2, 2), (3, 8))
AFTER = ((3, 5, 8, 8), (3, 7, 6, 5), (3, 9, 2, 2), (3, 10))


def test_fusion_gives_the_teachers_shapes_and_a_gradient_to_every_weight() -> None:
    fusion = FusionBridge(width=6).build(BEFORE, AFTER)
    out = fusion(tuple(torch.randn(shape) for shape in BEFORE))
    assert tuple(tuple(value.shape) for value in out) == AFTER
    sum((value * torch.randn_like(value)).sum() for value in out).backward()
    assert all(weight.grad is not None for weight in fusion.parameters())
    assert fusion.narrow[0][0].out_channels == 6
    assert FusionBridge().build(BEFORE, AFTER).narrow[0][0].out_channels == 8


def test_fusion_flows_from_deep_to_shallow_and_never_back() -> None:
    fusion = FusionBridge(width=6).build(BEFORE, AFTER).eval()
    taps = [torch.randn(shape) for shape in BEFORE]
    before = fusion(taps)
    for changed in range(4):
        other = [tap + 1 if number == changed else tap for number, tap in enumerate(taps)]
        moved = [not torch.allclose(*pair, atol=1e-6) for pair in zip(before, fusion(other), strict=True)]
        assert moved == [number <= changed for number in range(4)]


def test_fusion_of_two_layers_written_out() -> None:
    """Each layer narrowed, the deeper one enlarged by repetition, mixed by two learned shares, widened."""
    torch.manual_seed(0)
    shallow, deep = torch.randn(1, 3, 4, 4), torch.randn(1, 5, 2, 2)
    fusion = FusionBridge(width=2).build((shallow.shape, deep.shape), ((1, 3, 4, 4), (1, 5, 2, 2))).eval()
    first, second = (fusion.narrow[i](tap) for i, tap in enumerate((shallow, deep)))
    repeated = second.repeat_interleave(2, 2).repeat_interleave(2, 3)
    share = fusion.attend[0](torch.cat([first, repeated], 1)).sigmoid()
    mixed = first * share[:, 0:1] + repeated * share[:, 1:2]
    out = fusion((shallow, deep))
    assert torch.allclose(out[0], fusion.widen[0](mixed), atol=1e-6)
    assert torch.allclose(out[1], fusion.widen[1](second), atol=1e-6)
    swapped = first * share[:, 1:2] + repeated * share[:, 0:1]
    assert not torch.allclose(out[0], fusion.widen[0](swapped), atol=1e-3)
