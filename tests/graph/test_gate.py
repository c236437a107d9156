"""A gate over several edges, which sees all their losses."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core.errors import GraphError
from lessen.core.identity import identify
from lessen.graph import Edge, Fit, Graph, Labels, SmallestLoss, SoftmaxOfLosses, Stage, Window, validate
from lessen.graph.draw import draw
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.testing.graphs import BATCH, check_resume, flow_of, frozen, gradients, learner, quiet, rows


def nodes() -> list[Any]:
    return [Labels(), learner(quiet()), *(frozen(quiet(12, seed), f"t{seed}") for seed in (2, 4))]


def edges(**second: Any) -> list[Edge]:
    return [
        Edge(source="t2", target="student", objective=SoftTargets(), gate="best", weight=0.5),
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(**{"source": "t4", "target": "student", "objective": SoftTargets(), "gate": "best", **second}),
    ]


def stage(gate: Any, **second: Any) -> Stage:
    graph = Graph(nodes=nodes(), edges=edges(**second), gates={"best": gate})
    return Stage(name="gated", graph=graph, epochs=3, fit=Fit(batch=16))


@pytest.mark.parametrize("gate", [SmallestLoss(), SoftmaxOfLosses(temperature=0.5)])
def test_it_equals_the_same_written_by_hand(gate: Any) -> None:
    given = nodes()
    hand = copy.deepcopy(given[1].module)
    flow = flow_of(given, edges(), gates={"best": gate})
    passed = flow(BATCH, 0.0)
    passed.total.backward()
    output = hand(BATCH.inputs)
    one, two = (SoftTargets()(output, node.module.eval()(BATCH.inputs).detach()) for node in given[2:])
    if isinstance(gate, SmallestLoss):
        first = (one <= two).float()
        assert 0 < float(first.mean()) < 1
    else:
        first = ((two - one) / 0.5).sigmoid().detach()
    labels = CrossEntropy()(output, BATCH.labels)
    (0.5 * (one * first).mean() + labels.mean() + (two * (1 - first)).mean()).backward()
    torch.testing.assert_close(gradients(given[1].module), gradients(hand), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(passed.gates, {0: first.mean(), 2: (1 - first).mean()})
    torch.testing.assert_close(passed.losses, {0: one.mean(), 1: labels.mean(), 2: two.mean()})
    assert list(passed.targets) == ["student"]
    flow.close()


def test_it_sees_losses_without_gradient_of_the_edges_that_count() -> None:
    seen: list[tuple[torch.Size, bool]] = []

    def gate(losses_EN: Tensor) -> Tensor:
        seen.append((losses_EN.shape, losses_EN.requires_grad))
        return torch.ones_like(losses_EN)

    flow = flow_of(nodes(), edges(schedule=Window(start=0.5)), gates={"best": gate})
    flow(BATCH, 0.25)
    flow(BATCH, 0.75)
    assert seen[-2:] == [(torch.Size([1, 16]), False), (torch.Size([2, 16]), False)]
    flow.close()


def test_its_edges_may_arrive_at_different_nodes() -> None:
    given = [*nodes(), learner(quiet(seed=7), "other")]
    flow = flow_of(given, edges(target="other"), gates={"best": SmallestLoss()})
    flow(BATCH, 0.0).total.backward()
    assert all(gradient is not None for gradient in gradients(given[-1].module))
    flow.close()


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    check_resume(lambda: stage(SmallestLoss()), tmp_path)
    steps = [row for row in rows(tmp_path / "whole") if row["kind"] == "step"]
    shares = [(row["edges"]["t2->student"]["gate"], row["edges"]["t4->student"]["gate"]) for row in steps]
    assert all(abs(one + two - 1) < 1e-6 for one, two in shares)


def test_it_is_drawn_and_part_of_the_identity() -> None:
    assert [edge["gate"] for edge in draw([stage(SmallestLoss())])[0]["edges"]] == [
        "best: SmallestLoss",
        "Through",
        "best: SmallestLoss",
    ]
    assert "gates" not in identify(Graph(nodes=[], edges=[]))
    one, two = (identify(stage(SoftmaxOfLosses(temperature=t)).graph.gates) for t in (1.0, 2.0))
    assert one != two


WRONG: list[tuple[Any, str]] = [
    (lambda losses_EN: losses_EN[0], r"gave \(16,\) for losses of shape \(2, 16\)"),
    (lambda losses_EN: None, "gave NoneType for losses"),
    (nn.Linear(2, 2), "has weights, but a gate over several edges belongs to no node"),
]


@pytest.mark.parametrize(("gate", "said"), WRONG)
def test_what_does_not_fit_is_named(gate: Any, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        validate(stage(gate), BATCH)


NAMED: list[tuple[str, list[str], str]] = [
    ("bst", ["best"], "names the gate 'bst', which .* does not have: did you mean 'best'"),
    ("best", ["best", "idle"], "No edge names the gate 'idle'"),
    ("best", [], "names the gate 'best', which"),
]


@pytest.mark.parametrize(("name", "given", "said"), NAMED)
def test_names_of_gates_are_checked(name: str, given: list[str], said: str) -> None:
    graph = Graph(nodes=nodes(), edges=edges(gate=name), gates={gate: SmallestLoss() for gate in given} or None)
    with pytest.raises(GraphError, match=said):
        validate(Stage(name="s", graph=graph, epochs=1), BATCH)
