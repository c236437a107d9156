"""Edges that say which nodes their loss moves, and in which direction."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core.errors import GraphError
from lessen.core.identity import identify
from lessen.graph import (
    SGD,
    Branch,
    DistillationOriented,
    Edge,
    Ensemble,
    Fit,
    From,
    Graph,
    Labels,
    LearnedGate,
    SmallestLoss,
    Stage,
    validate,
)
from lessen.graph.draw import draw
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.surgery.taps import Tap
from lessen.testing.graphs import BATCH, check_resume, flow_of, frozen, gradients, learner, quiet

DISCREPANCY = SoftTargets(temperature=2.0)
BOTH = {"generator": -1, "student": 1}


def generator() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 8))


def nodes(**student: Any) -> list[Any]:
    made = From("generator", to_node=True)
    return [
        learner(generator(), "generator"),
        learner(quiet(), **{"reads": made, **student}),
        frozen(quiet(12, 2), reads=made),
        Labels(),
    ]


def stage(**edge: Any) -> Stage:
    """A generator makes images on which student and teacher differ, and which the teacher is sure of."""
    edges = [
        Edge(**{"source": "teacher", "target": "student", "objective": DISCREPANCY, "moves": BOTH, **edge}),
        Edge(source="labels", target="teacher", objective=CrossEntropy(), weight=0.25, moves={"generator": 1}),
    ]
    return Stage(name="moves", graph=Graph(nodes=nodes(), edges=edges), epochs=3, fit=Fit(batch=16, keep_best=False))


def by_hand(given: Sequence[Any]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """The gradients of the discrepancy at generator and student, and at the generator that of the second loss."""
    making, student, teacher = (copy.deepcopy(node.module) for node in given[:3])
    made = making(BATCH.inputs)
    output, taught = student(made), teacher.eval()(made)
    first, second = DISCREPANCY(output, taught).mean(), CrossEntropy()(taught, BATCH.labels).mean()
    whole = [*making.parameters(), *student.parameters()]
    found = torch.autograd.grad(first, whole, retain_graph=True)
    count = len(list(making.parameters()))
    other = torch.autograd.grad(second, list(making.parameters()))
    up = [0.25 * two - one for one, two in zip(found[:count], other, strict=True)]
    return up, list(found[count:]), first


def test_each_node_moves_in_its_own_direction_to_the_last_digit() -> None:
    given = nodes()
    flow = flow_of(given, stage().graph.edges)
    passed = flow(BATCH, 0.0)
    passed.total.backward()
    up, down, loss = by_hand(given)
    assert torch.equal(passed.losses[0], loss.detach())
    assert torch.equal(passed.targets["student"], loss.detach())
    for gradient, expected in zip(gradients(given[1].module), down, strict=True):
        assert gradient is not None
        assert torch.equal(gradient, expected)
    torch.testing.assert_close(gradients(given[0].module), up, rtol=1e-6, atol=1e-9)
    assert gradients(given[2].module) == [None] * len(gradients(given[2].module))
    flow.close()


@pytest.mark.parametrize("moves", [{"generator": -1}, {"student": 1}, {"generator": -0.5, "student": 2}])
def test_only_the_nodes_that_are_named_move_to_the_last_digit(moves: dict[str, float]) -> None:
    given = nodes()
    flow = flow_of(given, [Edge(source="teacher", target="student", objective=DISCREPANCY, moves=moves)])
    flow(BATCH, 0.0).total.backward()
    making, student, teacher = (copy.deepcopy(node.module) for node in given[:3])
    made = making(BATCH.inputs)
    loss = DISCREPANCY(student(made), teacher.eval()(made)).mean()
    for name, module, ours in (("generator", making, given[0]), ("student", student, given[1])):
        expected = torch.autograd.grad(loss, list(module.parameters()), retain_graph=True)
        for gradient, theirs in zip(gradients(ours.module), expected, strict=True):
            if name not in moves:
                assert gradient is None
            else:
                assert gradient is not None
                assert torch.equal(gradient, moves[name] * theirs)
    flow.close()


def test_without_it_the_generator_would_go_down() -> None:
    given = nodes()
    flow = flow_of(given, [Edge(source="teacher", target="student", objective=DISCREPANCY)])
    flow(BATCH, 0.0).total.backward()
    plain = gradients(given[0].module)
    flow.close()
    assert all(gradient is not None for gradient in plain)  # through the student alone: the teacher's side is cut off
    up, _, _ = by_hand(given)
    assert all(not torch.allclose(one, two) for one, two in zip(plain, up, strict=True) if one is not None)


def test_a_source_and_a_bridge_are_moved_too() -> None:
    given = [learner(quiet(), "a"), learner(quiet(12, 2), "b")]
    bridge = nn.Linear(8, 12)
    edge = Edge(source="b", target="a", objective=Hint(), source_tap="norm", target_tap="norm", bridge=bridge,
                moves={"a": 2, "b": -1})  # fmt: skip
    flow = flow_of(given, [edge])
    flow(BATCH, 0.0).total.backward()
    one, two, hand = (copy.deepcopy(module) for module in (given[0].module, given[1].module, bridge))
    for module in (one, two, hand):
        module.zero_grad(set_to_none=True)
    Hint()(hand(one.norm(one.layer1(BATCH.inputs))), two.norm(two.layer1(BATCH.inputs))).mean().backward()
    for ours, theirs, factor in ((given[0].module, one, 2), (bridge, hand, 2), (given[1].module, two, -1)):
        expected = [None if gradient is None else factor * gradient for gradient in gradients(theirs)]
        torch.testing.assert_close(gradients(ours), expected)
    flow.close()


class Alone:
    """A rule on gradients: the direction of the first loss."""

    def __call__(self, losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
        found = torch.autograd.grad(next(iter(losses.values())), parameters, retain_graph=True, allow_unused=True)
        parts = [(p * g).sum() for p, g in zip(parameters, found, strict=True) if g is not None]
        return torch.stack(parts).sum()


def test_a_rule_on_gradients_sees_the_directions() -> None:
    plain, ruled = nodes(), nodes(combine=Alone())
    found = []
    for given in (plain, ruled):
        flow = flow_of(given, [Edge(source="teacher", target="student", objective=DISCREPANCY, moves=BOTH)])
        flow(BATCH, 0.0).total.backward()
        found.append([gradients(given[0].module), gradients(given[1].module)])
        flow.close()
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", [SGD(), DistillationOriented()])
def test_gradients_of_half_precision_are_scaled(optimizer: Any) -> None:
    """A power of two changes nothing; one that is too large gives gradients that a scaler skips, and the right loss."""
    found = []
    for scale in (None, torch.tensor(2.0**16), torch.tensor(float("inf"))):
        given = nodes(optimizer=optimizer)
        flow = flow_of(given, stage().graph.edges)
        passed = flow(BATCH, 0.0, scale=scale)
        passed.total.backward()
        carriers = [*(flow.owners["student"].carriers or nn.Module()).parameters()]
        ends = [*given[0].module.parameters(), *given[1].module.parameters(), *carriers]
        found.append((passed.total.detach(), [p.grad for p in ends]))
        flow.close()
    plain, scaled, broken = found
    torch.testing.assert_close(plain, scaled, rtol=1e-6, atol=1e-9)
    assert torch.equal(plain[0], broken[0])
    assert not all(bool(gradient.isfinite().all()) for gradient in broken[1] if gradient is not None)


def test_it_works_under_gates_and_in_eval_mode() -> None:
    for gate in ("one", lambda losses, labels, source, target: losses.sign()):
        graph = stage(gate=gate).graph
        gates = {"one": SmallestLoss()} if gate == "one" else None
        flow = flow_of(nodes(), graph.edges, gates=gates)
        flow(BATCH, 0.0).total.backward()
        with torch.no_grad():
            assert torch.isfinite(flow(BATCH, 1.0, training=False).total)
        flow.close()


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    after = check_resume(stage, tmp_path)
    assert not torch.equal(after["generator.0.weight"], generator().state_dict()["0.weight"])
    assert not torch.equal(after["student.layer1.weight"], quiet().state_dict()["layer1.weight"])
    assert torch.equal(after["teacher.layer1.weight"], quiet(12, 2).state_dict()["layer1.weight"])


def test_it_is_drawn_and_part_of_the_identity() -> None:
    assert draw([stage()])[0]["edges"][0]["moves"] == BOTH
    assert "moves" not in draw([stage(moves=None)])[0]["edges"][0]
    assert "moves" not in identify(stage(moves=None).graph.edges[0])
    assert identify(stage().graph.edges[0])["moves"] == BOTH


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"moves": {}}, "moves no node"),
    ({"moves": {"student": 0}}, "moves 'student' by 0. Give a number other than 0"),
    ({"moves": {"student": float("nan")}}, "moves 'student' by nan"),
    ({"moves": {"teacher": 1}}, "names 'teacher', a Network; it needs a node that can learn"),
    ({"moves": {"studnt": 1}}, "did you mean 'student'"),
    ({"moves": BOTH, "to_source": True}, "Leave to_source out"),
    ({"moves": {"generator": 1}, "bridge": nn.Linear(4, 4)}, "learns with 'student', which its `moves` does not name"),
]


@pytest.mark.parametrize(("edge", "said"), WRONG)
def test_what_cannot_be_moved_is_named(edge: dict[str, Any], said: str) -> None:
    with pytest.raises(GraphError, match=said):
        validate(stage(**edge), BATCH)


def test_a_node_behind_a_cut_cannot_be_moved() -> None:
    made = stage()
    given = [made.graph.nodes[0], replace(made.graph.nodes[1], reads=From("generator")), *made.graph.nodes[2:]]
    edges = [replace(made.graph.edges[0], source="labels", objective=CrossEntropy())]
    with pytest.raises(GraphError, match="moves 'generator', but no gradient of its loss gets there"):
        validate(replace(made, graph=Graph(nodes=given, edges=edges)), BATCH)


def test_two_nodes_with_the_same_weights_are_refused() -> None:
    shared = quiet()
    given = [learner(shared, "a"), learner(shared, "b"), Labels()]
    edge = Edge(source="b", target="a", objective=Hint(), moves={"a": 1, "b": -1})
    with pytest.raises(GraphError, match="moves two nodes that share weights"):
        flow_of(given, [edge])


def test_heads_and_gates_of_ensembles_are_moved_by_name() -> None:
    given = [
        learner(quiet()),
        Branch(name="exit", of="student", tap=Tap(path="norm")),
        Ensemble(name="crowd", of=("student", "exit"), combine=LearnedGate(), to_members=True),
        Labels(),
    ]
    edge = Edge(source="labels", target="crowd", objective=CrossEntropy(), moves={"exit": 1, "crowd": -1})
    flow = flow_of(given, [edge])
    flow(BATCH, 0.0).total.backward()
    reached = {name for owner in flow.owners.values() for name, p in owner.named.items() if p.grad is not None}
    assert {name.split(".")[0] for name in reached} == {"head:exit", "ensemble:crowd"}
    flow.close()
