"""`OpenAttention` computes what `nn.MultiheadAttention` computes, and goes on doing so with fewer heads."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

from lessen.core.errors import PlanError
from lessen.surgery.attention import OpenAttention, open_attention, opened


@pytest.mark.parametrize(("batch_first", "bias", "need_weights"), list(itertools.product((True, False), repeat=3)))
def test_it_is_the_attention_of_pytorch(batch_first: bool, bias: bool, need_weights: bool) -> None:
    attention = nn.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first, dtype=torch.float64).eval()
    mine = opened(attention)
    query, memory = torch.rand(2, 5, 12, dtype=torch.float64), torch.rand(2, 7, 12, dtype=torch.float64)
    if not batch_first:
        query, memory = query.transpose(0, 1), memory.transpose(0, 1)
    padding = torch.tensor([[False] * 6 + [True], [False] * 7])
    mask = torch.rand(5, 7) > 0.7
    for key, masks in (
        (query, {}),
        (memory, {}),
        (memory, {"key_padding_mask": padding}),
        (memory, {"attn_mask": mask}),
        (memory, {"attn_mask": mask, "key_padding_mask": padding}),
        (memory, {"attn_mask": torch.rand(6, 5, 7, dtype=torch.float64)}),
    ):
        wanted = attention(query, key, key, need_weights=need_weights, **masks)
        found = mine(query, key, key, need_weights=need_weights, **masks)
        torch.testing.assert_close(found[0], wanted[0])
        if need_weights:
            torch.testing.assert_close(found[1], wanted[1])
        else:
            assert found[1] is None


def test_without_a_batch_and_with_weights_of_each_head() -> None:
    attention = nn.MultiheadAttention(12, 3, dtype=torch.float64).eval()
    x = torch.rand(5, 12, dtype=torch.float64)
    pairs = zip(*(run(x, x, x, average_attn_weights=False) for run in (opened(attention), attention)), strict=True)
    for found, wanted in pairs:
        torch.testing.assert_close(found, wanted)


def test_the_state_is_the_same_state() -> None:
    attention = nn.MultiheadAttention(12, 3)
    mine = opened(copy.deepcopy(attention))
    mine.load_state_dict(attention.state_dict(), strict=True)
    assert list(mine.state_dict()) == list(attention.state_dict())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_an_encoder_of_pytorch_runs_with_it() -> None:
    layer = nn.TransformerEncoderLayer(12, 4, 20, batch_first=True, dtype=torch.float64)
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x, padding = torch.rand(2, 5, 12, dtype=torch.float64), torch.tensor([[False] * 4 + [True], [False] * 5])
    with torch.no_grad():
        wanted = encoder(x, src_key_padding_mask=padding)
        found = open_attention(copy.deepcopy(encoder))(x, src_key_padding_mask=padding)
    keep = ~padding
    torch.testing.assert_close(found[keep], wanted[keep])


def test_what_cannot_be_opened_stays() -> None:
    network = nn.ModuleDict({"a": nn.MultiheadAttention(12, 3, kdim=5), "b": nn.MultiheadAttention(12, 3)})
    open_attention(network)
    assert isinstance(network["b"], OpenAttention)
    assert isinstance(network["a"], nn.MultiheadAttention)
    with pytest.raises(PlanError, match="MultiheadAttention cannot be opened"):
        opened(network["a"])
