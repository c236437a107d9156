"""Recurrent layers: what is left alone is said, by name and with what can be done."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import PlanError
from lessen.operations import PruneChannels, QuantizeDynamic

TOKENS = torch.arange(28).reshape(4, 7) % 20
KINDS = pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])


class Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *, linear: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.reader = kind(8, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 3) if linear else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.reader(self.embed(tokens))[0].mean(1))
        return logits


@KINDS
def test_dynamic_int8_says_which_layers_it_leaves_in_32_bits(kind: type[nn.RNNBase]) -> None:
    plan = QuantizeDynamic().plan(Reader(kind).eval(), Context(inputs=TOKENS))
    assert list(plan.weights) == ["head"]
    (row,) = [row for row in plan.describe() if row["edit"] == "left alone"]
    assert row["module"] == "reader"
    assert row["before"].startswith(f"{kind.__name__}: recurrent layers compute in 32 bits")
    elsewhere = QuantizeDynamic(where="head").plan(Reader(kind).eval(), Context(inputs=TOKENS))
    assert elsewhere.left == {}


@KINDS
def test_dynamic_int8_of_nothing_else_is_refused_with_the_reason(kind: type[nn.RNNBase]) -> None:
    with pytest.raises(PlanError, match=r"no linear layer to quantize.* reader: recurrent layers compute in 32 bits"):
        QuantizeDynamic().plan(Reader(kind, linear=False).eval(), Context(inputs=TOKENS))


@KINDS
def test_pruning_refuses_them_by_name_with_what_can_be_done(kind: type[nn.RNNBase]) -> None:
    says = r"in reader has no rule: the widths of recurrent layers stay\. Half\(\) .*distil into a network"
    with pytest.raises(PlanError, match=says):
        PruneChannels(keep=0.5).plan(Reader(kind).eval(), Context(inputs=TOKENS))
