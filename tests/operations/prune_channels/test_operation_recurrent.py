"""Hidden units of recurrent layers: what is cut equals what counts for nothing, in every way such layers are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import PlanError
from lessen.operations import Half, PruneChannels, QuantizeDynamic
from lessen.operations.prune_channels.masked import masked
from lessen.surgery.coupling import analyse, rules_recurrent
from lessen.testing.networks import Recurrent

X = torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(12).reshape(4, 3)


class Net(nn.Module):
    """Words or numbers, one recurrent layer, and a head that reads it in one of many ways."""

    def __init__(self, kind: Callable[..., nn.RNNBase], reads: str, *, tokens: bool = False, **how: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(12, 8) if tokens else nn.Linear(6, 8)
        self.layer = kind(8, 12, batch_first=True, **how)
        self.both = 1 + self.layer.bidirectional
        self.reads, self.head = reads, nn.Linear((self.layer.proj_size or 12) * self.both, 3)

    def forward(self, x: Tensor) -> Tensor:
        out_NTC, states = self.layer(self.embed(x))
        last = states[0] if isinstance(states, tuple) else states
        made = {
            "mean": lambda: out_NTC.mean(1),
            "last step": lambda: out_NTC[:, -1],
            "all": lambda: out_NTC,
            "state": lambda: torch.cat([*last[-self.both :]], 1),
            "largest": lambda: out_NTC.amax(1),
        }[self.reads]()
        logits: Tensor = self.head(made)
        return logits


class Started(nn.Module):
    """States to start from, of one kind each."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Linear(6, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)
        self.start, self.first = start, nn.Linear(6, 12)
        self.learned = nn.Parameter(torch.randn(1, 1, 12))

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        start = {
            "zeros": lambda: torch.zeros(1, count, self.layer.hidden_size),
            "learned": lambda: self.learned.expand(1, count, -1).contiguous(),
            "computed": lambda: self.first(x.mean(1))[None],
        }[self.start]()
        states: Tensor = self.head(self.layer(self.embed(x), (start, start.tanh()))[0].mean(1))
        return states


class Cells(nn.Module):
    """A loop over time."""

    def __init__(self, kind: Callable[..., nn.RNNCellBase]) -> None:
        super().__init__()
        self.layer, self.hidden, self.head = kind(6, 12), 12, nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        state: Any = x.new_zeros(x.shape[0], self.hidden)
        state = (state, state) if isinstance(self.layer, nn.LSTMCell) else state
        for step in range(x.shape[1]):
            state = self.layer(x[:, step], state)
        logits: Tensor = self.head(state[0] if isinstance(state, tuple) else state)
        return logits


class Residual(nn.Module):
    """What a recurrent layer gives is added to what it was given; then a second one reads both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer = nn.Linear(6, 12), nn.GRU(12, 12, batch_first=True)
        self.second, self.head = nn.LSTM(12, 10, batch_first=True, bidirectional=True), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        logits: Tensor = self.head(self.second(x + self.layer(x)[0])[0])
        return logits


TWO = {"num_layers": 2, "bidirectional": True}
NETS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "lstm, mean": (lambda: Net(nn.LSTM, "mean"), X),
    "gru, last step, tokens": (lambda: Net(nn.GRU, "last step", tokens=True), TOKENS),
    "rnn, all": (lambda: Net(nn.RNN, "all", nonlinearity="relu"), X),
    "lstm, two layers": (lambda: Net(nn.LSTM, "state", num_layers=2, bias=False), X),
    "gru, two ways": (lambda: Net(nn.GRU, "largest", bidirectional=True), X),
    "lstm, two layers two ways, mean": (lambda: Net(nn.LSTM, "mean", **TWO), X),
    "gru, two layers two ways, state": (lambda: Net(nn.GRU, "state", **TWO), X),
    "outputs and states": (lambda: Recurrent(nn.GRU), X),
    "projections": (lambda: Net(nn.LSTM, "mean", proj_size=5, **TWO), X),
    "zeros": (lambda: Started("zeros"), X),
    "learned": (lambda: Started("learned"), X),
    "computed": (lambda: Started("computed"), X),
    "lstm cell": (lambda: Cells(nn.LSTMCell), X),
    "gru cell": (lambda: Cells(nn.GRUCell), X),
    "residual": (Residual, X),
}
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


def built(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, x = NETS[name]
    return make().eval(), x


def small_layers(network: nn.Module) -> list[Any]:
    found = [part for part in network.modules() if isinstance(part, nn.RNNBase | nn.RNNCellBase)]
    assert found
    return found


@pytest.mark.parametrize("name", NETS)
def test_what_is_cut_equals_what_counts_for_nothing(name: str) -> None:
    model, x = built(name)
    plan = PruneChannels(keep=0.5).plan(model, Context(inputs=x))
    assert not plan.left_out
    for layer in small_layers(plan.apply(model)):
        assert layer.hidden_size in {5, 6}
    small, whole = plan.apply(model), masked(model, plan)
    with torch.no_grad():
        assert torch.allclose(small(x), whole(x), atol=1e-6)
        assert not torch.allclose(small(x), model(x), atol=1e-3)
    small.train()(x).square().sum().backward()
    assert all(p.grad is not None for name, p in small.named_parameters() if not name.startswith(("first", "learned")))
    fresh = plan.apply(NETS[name][0](), values=False)
    fresh.load_state_dict(small.state_dict(), strict=True)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(x), small.eval()(x))


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_a_unit_is_a_row_of_each_gate_and_a_column_of_what_reads_it(kind: type[nn.RNNBase], gates: int) -> None:
    """The oracle: the weights, cut by hand."""
    torch.manual_seed(0)
    model = Net(kind, "mean", bidirectional=True).eval()
    plan = PruneChannels(keep=0.5, where="layer").plan(model, Context(inputs=X))
    kept, before, after = plan.kept["layer"], model.layer, plan.apply(model).layer
    assert isinstance(after, nn.RNNBase)
    assert (after.input_size, after.hidden_size) == (8, 6)
    for way in ("", "_reverse"):
        for name, columns in (("weight_ih_l0", range(8)), ("weight_hh_l0", kept)):
            whole = getattr(before, name + way).unflatten(0, (gates, 12))
            assert torch.equal(getattr(after, name + way), whole[:, kept][:, :, list(columns)].flatten(0, 1))
        bias = getattr(before, "bias_hh_l0" + way).unflatten(0, (gates, 12))
        assert torch.equal(getattr(after, "bias_hh_l0" + way), bias[:, kept].flatten())
    assert torch.equal(plan.apply(model).head.weight, model.head.weight[:, [*kept, *(12 + unit for unit in kept)]])


def test_rows_of_the_wrong_gates_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: the units are taken for the outer factor of a row."""
    right = rules_recurrent.product
    monkeypatch.setattr(rules_recurrent, "product", lambda axes: right(reversed(axes)))
    plan = PruneChannels(keep=0.5).plan(Net(nn.LSTM, "mean").eval(), Context(inputs=X))
    assert "differ from the masked network" in plan.left_out["layer"]


def test_multiply_adds_are_those_of_all_gates_and_steps() -> None:
    plan = PruneChannels(keep=0.5).plan(Net(nn.GRU, "mean", tokens=True).eval(), Context(inputs=TOKENS))
    assert plan.multiply_adds == (3 * 36 * (8 + 12) + 36, 3 * 18 * (4 + 6) + 18)


class Gives(nn.Module):
    """Its states are an output of the network, or come in with the inputs."""

    def __init__(self, *, out: bool) -> None:
        super().__init__()
        self.layer, self.head, self.out = nn.GRU(6, 12, batch_first=True), nn.Linear(12, 3), out

    def forward(self, x: Tensor, start: Tensor | None = None) -> Any:
        out, states = self.layer(x, None if start is None else start[None])
        return (self.head(out[:, -1]), states[0]) if self.out else self.head(out[:, -1])


@pytest.mark.parametrize(("out", "why"), [(True, "an output of the network"), (False, "an input of the network")])
def test_what_must_keep_its_width_is_named(out: bool, why: str) -> None:
    inputs: Any = X if out else (X, torch.zeros(4, 12))
    coupling = analyse(Gives(out=out), inputs)
    assert "layer" not in coupling.groups
    assert coupling.pinned["layer.weight_hh_l0", 0] == why
    with pytest.raises(PlanError, match=why):
        PruneChannels().plan(Gives(out=out).eval(), Context(inputs=inputs))


@pytest.mark.parametrize("first", [Half(), QuantizeDynamic()], ids=["half", "dynamic"])
def test_it_goes_before_and_after_other_forms(first: Any) -> None:
    context = Context(inputs=X)
    for seed in range(2):  # whether what is removed holds the largest value is chance
        torch.manual_seed(seed)
        model = Net(nn.LSTM, "mean", num_layers=2).eval()
        once = first.plan(model, context).apply(model)
        then = PruneChannels(keep=0.5).plan(once, context)
        assert not then.left_out
        pruned = PruneChannels(keep=0.5).plan(model, context).apply(model)
        other = first.plan(pruned, context).apply(pruned)
        with torch.no_grad():
            assert torch.allclose(then.apply(once)(X), pruned(X), atol=0.05)
            assert torch.allclose(other(X), pruned(X), atol=0.05)
