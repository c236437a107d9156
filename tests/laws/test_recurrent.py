"""Recurrent layers: what is left alone is said, by name and with what can be done."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import PlanError
from lessen.operations import Half, PruneWeights, QuantizeDynamic
from lessen.operations.quantize.found import quantize_dynamically
from lessen.pipeline import pack, unpack
from lessen.surgery.copying import copy_network

TOKENS = torch.arange(28).reshape(4, 7) % 20


class Reader(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], *, linear: bool = True) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.reader = kind(8, 12, batch_first=True, bidirectional=True)
        self.head = nn.Linear(24, 3) if linear else nn.Identity()

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.reader(self.embed(tokens))[0].mean(1))
        return logits


@pytest.mark.parametrize("kind", [nn.GRU, nn.RNN])
def test_dynamic_int8_says_which_layers_it_leaves_in_32_bits(kind: type[nn.RNNBase]) -> None:
    plan = QuantizeDynamic().plan(Reader(kind).eval(), Context(inputs=TOKENS))
    assert list(plan.weights) == ["head"]
    (row,) = [row for row in plan.describe() if row["edit"] == "left alone"]
    assert row["module"] == "reader"
    assert row["before"].startswith(f"{kind.__name__}: recurrent layers compute in 32 bits")
    elsewhere = QuantizeDynamic(where="head").plan(Reader(kind).eval(), Context(inputs=TOKENS))
    assert elsewhere.left == {}
    with pytest.raises(PlanError, match=r"no linear layer and no LSTM to quantize.* reader: .* compute in 32 bits"):
        QuantizeDynamic().plan(Reader(kind, linear=False).eval(), Context(inputs=TOKENS))


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
def test_dynamic_int8_takes_lstms_but_for_projections() -> None:
    plan = QuantizeDynamic().plan(Reader(nn.LSTM).eval(), Context(inputs=TOKENS))
    assert plan.weights == {"reader": 7, "head": 7}
    assert plan.left == {}
    assert QuantizeDynamic(exclude=nn.LSTM).plan(Reader(nn.LSTM).eval(), Context(inputs=TOKENS)).left == {}
    projected = Reader(nn.LSTM)
    projected.reader = nn.LSTM(8, 16, batch_first=True, bidirectional=True, proj_size=12)
    plan = QuantizeDynamic().plan(projected.eval(), Context(inputs=TOKENS))
    assert list(plan.weights) == ["head"]
    assert "no integer kernel with projections" in plan.left["reader"]


class Packed(nn.Module):
    """Sequences of several lengths, packed."""

    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(8, 12, num_layers=2, batch_first=True)

    def forward(self, x_NTC: Tensor) -> Tensor:
        lengths = torch.arange(len(x_NTC), 0, -1)
        packed = nn.utils.rnn.pack_padded_sequence(x_NTC, lengths, batch_first=True)
        states: Tensor = self.reader(packed)[1][0][-1]
        return states


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reader = nn.LSTM(8, 12, num_layers=2, bias=False)

    def forward(self, x_TNC: Tensor) -> Tensor:
        start = x_TNC.new_ones(2, x_TNC.shape[1], 12)
        states: Tensor = self.reader(x_TNC, (start, start))[0]
        return states


@pytest.mark.parametrize("kind", [Packed, Whole])
def test_an_lstm_computes_with_rounded_weights_on_a_rounded_input(kind: type[nn.Module]) -> None:
    """The oracle: a plain network whose weights are rounded by hand, given the input on its grid."""
    torch.manual_seed(0)
    model, x = kind().eval(), torch.rand(6, 6, 8) - 0.2
    small = QuantizeDynamic().plan(model, Context(inputs=x)).apply(model)
    plain = copy_network(model)
    for weight in plain.parameters():
        if weight.ndim > 1:
            step = weight.detach().abs().amax(1, keepdim=True) / 63
            weight.data = (weight.detach() / step).round() * step
    given = x.clone()
    used = torch.arange(6)[None] < torch.arange(6, 0, -1)[:, None] if kind is Packed else torch.ones(6, 6).bool()
    given[used] = quantize_dynamically(x[used])
    with torch.no_grad():
        assert torch.allclose(small(x), plain(given), atol=1e-6)
        assert not torch.allclose(small(x), plain(x), atol=1e-6)
        assert not torch.allclose(small(x), model(given), atol=1e-4)


def test_halves_and_masks_of_other_layers_go_with_it(tmp_path: Path) -> None:
    context = Context(inputs=TOKENS)
    torch.manual_seed(0)
    model = Reader(nn.LSTM).eval()
    whole = pack(model, tmp_path / "whole.safetensors").path.stat().st_size
    for steps in (
        (Half(), QuantizeDynamic()),
        (QuantizeDynamic(), Half()),
        (PruneWeights(keep=0.5), QuantizeDynamic()),
    ):
        made, plans = model, []
        for step in steps:
            plans.append(step.plan(made, context))
            made = plans[-1].apply(made)
        with torch.no_grad():
            wanted = made(TOKENS)
            assert torch.allclose(wanted, model(TOKENS), atol=0.1)
            path = tmp_path / "packed.safetensors"
            pack(made, path, plans=plans)
            torch.manual_seed(1)
            assert torch.equal(unpack(path, Reader(nn.LSTM).eval())(TOKENS), wanted)
        assert path.stat().st_size < 0.65 * whole
