"""Taps on the state of a batch norm: the moments of the batch, and the running ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import decode, encode
from lessen.core.errors import GraphError, TapError
from lessen.graph import BatchMoments, Cache, Edge, Fit, From, Graph, Labels, Stage, validate
from lessen.knowledge import CrossEntropy
from lessen.surgery.taps import Tap, Taps, capture, taps
from lessen.testing.graphs import BATCH, check_resume, flow_of, frozen, learner, quiet

STATE = Tap(path="norm", side="state")


class Grids(nn.Module):
    """A grid of each vector, with two batch norms."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.first, self.layer, self.second = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
            self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.second(self.layer(self.first(x.view(-1, 2, 2, 2)))).flatten(1))
        return output


def taught(network: nn.Module) -> nn.Module:
    """With running statistics of some data."""
    network.train()
    for _ in range(3):
        network(BATCH.inputs + 0.5)
    return network.eval()


def dreaming(network: nn.Module, tap: Tap | Taps, **edge: Any) -> Stage:
    """A generator makes inputs with the moments that the teacher's training data had."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        making = nn.Linear(8, 8)
    nodes = [
        learner(making, "generator"),
        frozen(network, reads=From("generator", to_node=True)),
        Labels(),
    ]
    edges = [
        Edge(**{"target": "teacher", "objective": BatchMoments(), "target_tap": tap, **edge}),
        Edge(source="labels", target="teacher", objective=CrossEntropy(), weight=0.1),
    ]
    return Stage(name="dream", graph=Graph(nodes=nodes, edges=edges), epochs=2, fit=Fit(batch=16, keep_best=False))


def by_hand(norm: Any, value: Tensor) -> Tensor:
    """As the released code of DeepInversion computes it."""
    flat = value.transpose(0, 1).flatten(1)
    mean, variance = flat.mean(1), flat.var(1, unbiased=False)
    return (norm.running_mean - mean).norm(2) + (norm.running_var - variance).norm(2)


def test_moments_of_several_layers_equal_the_same_written_by_hand() -> None:
    network = taught(Grids())
    made = dreaming(network, taps(Tap(path="first", side="state"), Tap(path="second", side="state")))
    making = made.graph.nodes[0].network
    assert making is not None
    flow = flow_of(made.graph.nodes, made.graph.edges[:1])
    passed = flow(BATCH, 0.0)
    passed.total.backward()
    ours = making.weight.grad.clone()  # type: ignore[union-attr, operator]
    making.zero_grad()
    with capture(network, [Tap(path="first", side="input"), Tap(path="second", side="input")]) as seen:
        network(making(BATCH.inputs))
    parts = [by_hand(getattr(network, tap.path), value) for tap, value in seen.items()]
    torch.testing.assert_close(passed.losses[0], sum(parts).detach())  # type: ignore[union-attr]
    sum(parts).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(ours, making.weight.grad, rtol=1e-4, atol=1e-6)  # type: ignore[arg-type]
    flow.close()


def test_in_train_mode_the_running_ones_are_those_before_the_batch() -> None:
    network = quiet()
    before = network.norm.running_mean.clone()
    flow = flow_of([learner(network)], [Edge(target="student", objective=BatchMoments(), target_tap=STATE)])
    value = network.layer1(BATCH.inputs)
    expected = by_hand(network.norm, value)
    loss = flow(BATCH, 0.0).losses[0]
    torch.testing.assert_close(loss, expected.detach())
    assert not torch.equal(before, network.norm.running_mean)
    flow.close()


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    check_resume(lambda: dreaming(taught(quiet()), STATE), tmp_path)
    check_resume(lambda: dreaming(taught(quiet()), STATE, moves={"generator": 1}), tmp_path / "moves")


def test_it_is_an_address_like_others() -> None:
    assert str(STATE) == "norm.state"
    assert decode(encode(STATE), {"Tap": Tap}) == STATE
    network = taught(Grids())
    with capture(network, [where := Tap(path="second", side="state")]) as seen:
        network(BATCH.inputs)
    batch, running = seen[where]
    assert batch.shape == running.shape == (16, 2, 3)
    assert torch.equal(running[5, 0], network.second.running_mean)  # type: ignore[union-attr, arg-type]


WRONG: list[tuple[Tap, type[Exception], str]] = [
    (Tap(path="layer1", side="state"), TapError, "with running statistics, but 'layer1' is a Linear"),
    (Tap(path="nrm", side="state"), TapError, "did you mean 'norm'"),
]


@pytest.mark.parametrize(("tap", "kind", "said"), WRONG)
def test_what_has_no_moments_is_named(tap: Tap, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        validate(dreaming(quiet(), tap), BATCH)


def test_moments_are_not_cached() -> None:
    nodes = [learner(quiet()), frozen(quiet(), cache=Cache())]
    edge = Edge(source="teacher", target="student", objective=lambda a, b: (a[0] - b[0]).square().sum((1, 2)),
                source_tap=STATE, target_tap=STATE)  # fmt: skip
    with pytest.raises(GraphError, match="which a cache of single examples does not have"):
        validate(Stage(name="s", graph=Graph(nodes=nodes, edges=[edge]), epochs=1), BATCH)
