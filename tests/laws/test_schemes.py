"""Every scheme keeps the laws; and the laws find the errors they are there for."""

import copy
import dataclasses
from typing import Any

import pytest
import torch

from lessen.graph import (
    Correct,
    Edge,
    Fit,
    Flow,
    Graph,
    LastStep,
    LearnedGate,
    Linear,
    Mean,
    MovingAverage,
    flow,
    ready,
)
from lessen.graph.nodes.network import NetworkUnit
from lessen.knowledge import Hint, SoftTargets
from lessen.schemes import AssistantChain, Mutual, Offline, SelfBranches, SelfSnapshot, SeveralTeachers, Supervised, at
from lessen.testing.schemes import SchemeLaws, first_batch, leaks, same, transfer_loss
from lessen.testing.tasks import clusters

FIT = Fit(batch=20, checkpoint_steps=3)
SHORT = {"epochs": 2, "fit": FIT}


class TestSupervised(SchemeLaws):
    schemes = (Supervised(**SHORT),)


class TestOffline(SchemeLaws):
    schemes = (
        Offline(**SHORT),
        Offline(knowledge=(SoftTargets(temperature=2.0), at("layer2", Hint(), weight=0.5, gate=Linear())), **SHORT),
        Offline(labels=0.0, **SHORT),
    )


class TestMutual(SchemeLaws):
    schemes = (Mutual(**SHORT), Mutual(knowledge=(at("", SoftTargets(), gate=Correct()),), **SHORT))


class TestSelfBranches(SchemeLaws):
    schemes = (
        SelfBranches(taps=("layer1",), **SHORT),
        SelfBranches(taps=("layer1", "layer2"), neighbours=True, **SHORT),
    )


class TestSelfSnapshot(SchemeLaws):
    schemes = (
        SelfSnapshot(**SHORT),
        SelfSnapshot(when=LastStep(), **SHORT),
        SelfSnapshot(when=MovingAverage(decay=0.9), **SHORT),
    )


class TestAssistantChain(SchemeLaws):
    schemes = (AssistantChain(**SHORT), AssistantChain(dense=True, **SHORT))


class TestSeveralTeachers(SchemeLaws):
    schemes = (SeveralTeachers(**SHORT), SeveralTeachers(ensemble=Mean(), **SHORT))


class Tried(SchemeLaws):
    """The laws, to call by hand."""

    __test__ = False
    schemes = ()


def test_a_leak_to_the_source_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    (stage,) = Mutual(**SHORT).stages(Tried().cast())
    assert leaks(stage, first_batch(clusters())) == []
    monkeypatch.setattr(ready, "cut", lambda value: value)
    assert leaks(stage, first_batch(clusters())) != []


def test_a_frozen_node_that_moves_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flow, "set_mode", lambda self, *, training: self.train(training) and teach(self))

    def teach(self: Flow) -> None:
        for unit in self.units.values():
            if isinstance(unit, NetworkUnit):
                unit.module.train()

    with pytest.raises(AssertionError):
        Tried().test_frozen_nodes_move_neither_weights_nor_buffers(Offline(**SHORT))


def test_an_edge_of_weight_0_that_does_something_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "works", lambda edge: True)
    monkeypatch.setattr(Edge, "weight_at", lambda self, progress: self.weight or 0.1)
    with pytest.raises(AssertionError):
        Tried().test_weight_0_equals_no_edge(Offline(**SHORT))


def test_runs_that_share_their_random_numbers_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("nodes.network", "flow"):
        monkeypatch.setattr(f"lessen.graph.{place}.seed_draws", lambda *_: torch.rand(1))
    with pytest.raises(AssertionError):
        Tried().test_interleaved_runs_equal_runs_in_sequence(Supervised(**SHORT))


def test_a_checkpoint_that_forgets_the_optimizer_is_found(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessen.engine.keeping.put_back", lambda optimizer, tensors, rest: None)
    with pytest.raises(AssertionError):
        Tried().test_resume_equals_no_interruption(Supervised(**SHORT), tmp_path)


def test_a_teacher_unlike_the_student_has_something_to_teach() -> None:
    (stage,) = Offline(**SHORT).stages(Tried().cast())
    assert transfer_loss(stage, first_batch(clusters())) > 1e-3


def test_two_states_that_differ_in_one_bit_are_told_apart() -> None:
    one = {"a": torch.ones(2)}
    assert same(one, copy.deepcopy(one))
    assert not same(one, {"a": torch.nextafter(one["a"], torch.zeros(2))})


def test_a_learned_gate_learns_and_only_from_its_own_edge() -> None:
    """The ensemble is a virtual teacher that listens to the labels; its members do not."""
    cast = Tried().cast()
    (stage,) = SeveralTeachers(ensemble=LearnedGate(), **SHORT).stages(cast)
    edges = [*stage.graph.edges, Edge(source="labels", target="teachers", objective=stage.graph.edges[0].objective)]
    changed = dataclasses.replace(stage, graph=Graph(nodes=stage.graph.nodes, edges=edges))
    made = Flow(changed, first_batch(clusters()))
    try:
        assert set(made.owners) == {"student", "teachers"}
        made.set_mode(training=True)
        made(first_batch(clusters()), 0.5).total.backward()
        gate = made.owners["teachers"].parameters
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gate)
        assert all(p.grad is None for network in cast["teachers"] for p in network.parameters())
    finally:
        made.close()
