"""Optimizers that get the gradients of some losses apart from those of the others."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import SettingError
from lessen.engine.training import Training
from lessen.graph import (
    SGD,
    ConfidencePenalty,
    Constant,
    DistillationOriented,
    Edge,
    Fit,
    Graph,
    Labels,
    NoDecay,
    Stage,
    Turns,
)
from lessen.knowledge import CrossEntropy, Hint, SoftTargets, WidthBridge
from lessen.testing.graphs import check_resume, frozen, learner, quiet
from lessen.testing.tasks import clusters

SOFT = SoftTargets(temperature=2.0)


def stage(optimizer: Any, *, student: Mapping[str, Any] | None = None, **fit: Any) -> Stage:
    nodes = [Labels(), learner(quiet(), **(student or {})), frozen(quiet(12, 2))]
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="teacher", target="student", objective=SOFT, weight=0.5),
        Edge(target="student", objective=ConfidencePenalty(), weight=0.1),
        Edge(source="teacher", target="student", objective=Hint(), source_tap="norm", target_tap="layer2",
             bridge=WidthBridge()),
    ]  # fmt: skip
    given = {"batch": 16, "optimizer": optimizer, "schedule": Constant(), "clip": None, "keep_best": False, **fit}
    return Stage(name="apart", graph=Graph(nodes=nodes, edges=edges), epochs=2, fit=Fit(**given))


def weights(made: Stage) -> list[Tensor]:
    network = made.graph.nodes[1].network
    assert network is not None
    return [parameter.detach().clone() for parameter in network.parameters()]


def stepped(made: Stage, steps: int) -> list[Tensor]:
    training = Training(made, 0, clusters(), seed=0, device="cpu")
    for _ in range(steps):
        training.advance()
    training.close()
    return weights(made)


def by_hand(steps: int, *, accumulate: int = 1) -> list[Tensor]:
    """Two velocities for each weight, on the batches of the stage, with the bridge left out of the comparison."""
    made = stage(DistillationOriented(), accumulate=accumulate)
    training = Training(made, 0, clusters(), seed=0, device="cpu")
    network = copy.deepcopy(made.graph.nodes[1].network)
    teacher = copy.deepcopy(made.graph.nodes[2].network)
    bridge = copy.deepcopy(training.flow.owners["student"].parts["bridge:teacher->student:norm>layer2"])
    assert network is not None
    assert teacher is not None
    bridge.train()
    network.train()
    own = [*network.parameters(), *bridge.parameters()]
    task = [torch.zeros_like(p) for p in own]
    other = [torch.zeros_like(p) for p in own]
    parts = training._parts(0)
    for _ in range(steps):
        sums = [[torch.zeros_like(p) for p in own] for _ in range(2)]
        for _ in range(accumulate):
            batch = clusters().train.fetch(next(parts)[1])
            inner = network.layer2(F.relu(network.norm(network.layer1(batch.inputs))))
            output = network.head(F.relu(inner))
            with torch.no_grad():
                taught, hint = teacher(batch.inputs), teacher.norm(teacher.layer1(batch.inputs))
            first = F.cross_entropy(output, batch.labels) + 0.1 * ConfidencePenalty()(output).mean()
            second = 0.5 * SOFT(output, taught).mean() + Hint()(bridge(inner), hint).mean()
            for held, loss in zip(sums, (first, second), strict=True):
                found = torch.autograd.grad(loss / accumulate, own, retain_graph=True, allow_unused=True)
                for total, gradient in zip(held, found, strict=True):
                    total += 0 if gradient is None else gradient
        with torch.no_grad():
            for p, v, u, g, k in zip(own, task, other, *sums, strict=True):
                both = bool(g.abs().sum() > 0) and bool(k.abs().sum() > 0)
                delta = 0.075 if both else 0.0
                decay = 5e-4 * p
                if bool(g.abs().sum() > 0):
                    v.mul_(0.9 - delta).add_(g + decay)
                    p.sub_(0.05 * v)
                if bool(k.abs().sum() > 0):
                    u.mul_(0.9 + delta).add_(k if both else k + decay)
                    p.sub_(0.05 * u)
    training.close()
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_equals_two_velocities_written_by_hand(accumulate: int) -> None:
    ours = stepped(stage(DistillationOriented(), accumulate=accumulate), 5)
    theirs = by_hand(5, accumulate=accumulate)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    plain = stepped(stage(DistillationOriented(delta=0.0), accumulate=accumulate), 5)
    assert any(not torch.allclose(one, two, rtol=1e-3, atol=1e-5) for one, two in zip(ours, plain, strict=True))


def test_without_a_difference_it_is_plain_momentum() -> None:
    ours = stepped(stage(DistillationOriented(delta=0.0)), 5)
    torch.testing.assert_close(ours, stepped(stage(SGD(nesterov=False)), 5), rtol=1e-4, atol=1e-6)


def test_the_bound_on_gradients_counts_both() -> None:
    one, two = (stepped(stage(DistillationOriented(), clip=clip), 3) for clip in (None, 0.01))
    start = weights(stage(DistillationOriented()))
    moved = [sum(float((w - s).square().sum()) for w, s in zip(end, start, strict=True)) for end in (one, two)]
    assert moved[1] < 0.01 * moved[0]


@pytest.mark.parametrize("fit", [{}, {"accumulate": 2}, {"clip": 1.0}])
def test_it_is_resumed_bit_for_bit(fit: dict[str, Any], tmp_path: Path) -> None:
    check_resume(lambda: stage(DistillationOriented(rules=(NoDecay(),)), **fit), tmp_path)


def test_carriers_are_no_part_of_networks_and_checkpoints() -> None:
    made = stage(DistillationOriented())
    training = Training(made, 0, clusters(), seed=0, device="cpu")
    training.advance()
    owner = training.flow.owners["student"]
    assert not any("apart" in name for name in [*owner.parts, *owner.named])
    assert owner.carriers is not None
    assert all(not carrier.any() and carrier.grad is None for carrier in owner.carriers.parameters())
    training.close()


class Doubled:
    """A rule on losses."""

    def __call__(self, losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
        assert set(losses) == {"labels->student", "->student"}
        return 2 * torch.stack(list(losses.values())).sum()


def test_a_rule_of_the_node_sees_the_losses_of_the_task() -> None:
    made = stage(DistillationOriented(), student={"combine": Doubled()})
    training = Training(made, 0, clusters(), seed=0, device="cpu")
    training.advance()
    training.log.flush()
    row = training.log.last
    assert row is not None
    edges = {name: edge["loss"] * edge["weight"] for name, edge in row["edges"].items()}
    task = edges["labels->student"] + edges["->student"]
    rest = sum(value for name, value in edges.items() if name.startswith("teacher"))
    assert row["loss"]["student"] == pytest.approx(2 * task + rest, rel=1e-5)
    training.close()


def test_other_nodes_get_their_gradients_as_without_it() -> None:
    found = []
    for optimizer in (SGD(), DistillationOriented()):
        given = [Labels(), learner(quiet(), optimizer=optimizer), learner(quiet(12, 2), "other")]
        edges = [
            Edge(source="labels", target="student", objective=CrossEntropy()),
            Edge(source="other", target="student", objective=SOFT, to_source=True),
            Edge(source="other", target="student", objective=SOFT, moves={"other": -1, "student": 1}),
            Edge(source="labels", target="other", objective=CrossEntropy()),
        ]
        made = Stage(name="s", graph=Graph(nodes=given, edges=edges), epochs=1, fit=Fit(batch=16, clip=None))
        training = Training(made, 0, clusters(), seed=0, device="cpu")
        training.advance()
        training.close()
        found.append([p.detach().clone() for p in given[2].module.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


def test_it_takes_turns(tmp_path: Path) -> None:
    def make() -> Stage:
        made = stage(DistillationOriented())
        graph = Graph(
            nodes=[*made.graph.nodes, learner(quiet(seed=5), "other")],
            edges=[*made.graph.edges, Edge(source="student", target="other", objective=SOFT)],
        )
        return Stage(name="s", graph=graph, epochs=2, fit=made.fit, turns=Turns(of=(("student", 1), ("other", 2))))

    check_resume(make, tmp_path)


def test_momenta_are_checked() -> None:
    for wrong in ({"delta": 0.1}, {"momentum": 0.05}):
        with pytest.raises(SettingError, match="must be at least 0 and below 1"):
            DistillationOriented(**wrong)
