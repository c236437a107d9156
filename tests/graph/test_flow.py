"""What one pass through a graph computes, against the same thing written by hand."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Card, settings
from lessen.core.errors import GraphError
from lessen.core.seeds import uniforms
from lessen.graph import (
    Branch,
    Correct,
    CutOff,
    Edge,
    Ensemble,
    Flow,
    Graph,
    Labels,
    LastEpoch,
    LastStep,
    Linear,
    LinearWarmup,
    Mean,
    MovingAverage,
    Network,
    Stage,
    Window,
)
from lessen.graph.ready import cut
from lessen.graph.when import follow
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters, perceptron

BATCH = clusters().train.fetch(torch.arange(16))


def quiet(hidden: int, seed: int) -> nn.Sequential:
    """Without dropout, so that a pass can be repeated by hand."""
    network = perceptron(hidden, seed=seed)
    network.dropout = nn.Identity()
    return network


def flow_of(nodes: list[Any], edges: list[Edge]) -> Flow:
    made = Flow(Stage(name="s", graph=Graph(nodes=nodes, edges=edges), epochs=1), BATCH)
    made.set_mode(training=True)
    return made


def gradients(module: nn.Module) -> list[Tensor | None]:
    return [p.grad for p in module.parameters()]


def learner(module: nn.Module, name: str = "s", **more: Any) -> Network:
    return Network(name=name, module=module, learns=True, **more)


def frozen(module: nn.Module, name: str = "t", **more: Any) -> Network:
    return Network(name=name, module=module, learns=False, **more)


def test_offline_distillation_equals_the_same_written_by_hand() -> None:
    student, teacher, bridge = quiet(8, 1), quiet(12, 2), nn.Linear(8, 12)
    hand_student, hand_bridge = copy.deepcopy(student), copy.deepcopy(bridge)
    edges = [
        Edge(source="labels", target="s", objective=CrossEntropy()),
        Edge(source="t", target="s", objective=SoftTargets(temperature=2.0), weight=0.7),
        Edge(source="t", target="s", objective=Hint(), source_tap="norm", target_tap="norm", bridge=bridge, weight=0.3),
    ]
    flow = flow_of([Labels(), frozen(teacher), learner(student)], edges)
    passed = flow(BATCH, 0.0)
    passed.total.backward()

    # By hand; the tap is before an activation in place, which must not show.
    x, y = BATCH.inputs, BATCH.labels
    features = hand_student.norm(hand_student.layer1(x))
    output = hand_student.head(F.relu(hand_student.layer2(F.relu(features))))
    with torch.no_grad():
        teacher.eval()
        taught_features = teacher.norm(teacher.layer1(x))
        taught = teacher.head(F.relu(teacher.layer2(F.relu(taught_features))))
    soft = F.kl_div((output / 2).log_softmax(1), (taught / 2).softmax(1), reduction="batchmean") * 4
    hint = F.mse_loss(hand_bridge(features), taught_features)
    total = F.cross_entropy(output, y) + 0.7 * soft + 0.3 * hint
    total.backward()

    torch.testing.assert_close(passed.total, total)
    torch.testing.assert_close(passed.losses[2], hint.detach())
    torch.testing.assert_close(gradients(student), gradients(hand_student))
    torch.testing.assert_close(gradients(bridge), gradients(hand_bridge))
    assert gradients(teacher) == [None] * len(gradients(teacher))
    flow.close()


def test_without_the_copy_the_tap_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lessen.surgery.taps.Recorder.written_over", lambda self: set())
    with pytest.raises(AssertionError):
        test_offline_distillation_equals_the_same_written_by_hand()


def test_mutual_learning_equals_the_same_written_by_hand() -> None:
    one, two = quiet(8, 1), quiet(8, 2)
    hand_one, hand_two = copy.deepcopy(one), copy.deepcopy(two)
    soft = SoftTargets(temperature=1.0)
    edges = [Edge(source="b", target="a", objective=soft), Edge(source="a", target="b", objective=soft)]
    flow = flow_of([learner(one, "a"), learner(two, "b")], edges)
    flow(BATCH, 0.0).total.backward()
    a, b = hand_one(BATCH.inputs), hand_two(BATCH.inputs)
    (soft(a, b.detach()).mean() + soft(b, a.detach()).mean()).backward()
    torch.testing.assert_close(gradients(one), gradients(hand_one))
    torch.testing.assert_close(gradients(two), gradients(hand_two))
    flow.close()


def test_gradient_flows_to_a_source_that_is_asked_for() -> None:
    one, two = quiet(8, 1), quiet(8, 2)
    edge = Edge(source="b", target="a", objective=Hint(), to_source=True)
    keep = Edge(source="labels", target="b", objective=CrossEntropy(), weight=1e-9)
    flow = flow_of([Labels(), learner(one, "a"), learner(two, "b")], [edge, keep])
    flow(BATCH, 0.0).total.backward()
    assert sum(float(g.abs().sum()) for g in gradients(two) if g is not None) > 1e-3
    flow.close()


def test_branches_share_their_trunk_and_own_their_head() -> None:
    network = quiet(8, 1)
    deeper = Edge(source="s", target="exit", objective=SoftTargets())
    flow = flow_of([Labels(), learner(network), Branch(name="exit", of="s", tap=Tap(path="layer1"))], [deeper])
    assert list(flow.owners) == ["s"]
    assert list(flow.owners["s"].parts) == ["network:s", "head:exit"]
    flow(BATCH, 0.0).total.backward()
    reached = {name for name, p in network.named_parameters() if p.grad is not None}
    assert reached == {"layer1.weight", "layer1.bias"}  # the end of the network teaches, and is not moved by it
    flow.close()


def test_a_branch_on_a_frozen_network_is_a_probe() -> None:
    network = quiet(8, 1)
    edge = Edge(source="labels", target="probe", objective=CrossEntropy())
    flow = flow_of([Labels(), frozen(network, "s"), Branch(name="probe", of="s", tap=Tap(path="layer1"))], [edge])
    flow(BATCH, 0.0).total.backward()
    assert list(flow.owners) == ["probe"]
    assert gradients(network) == [None] * len(gradients(network))
    assert all(p.grad is not None for p in flow.owners["probe"].parameters)
    flow.close()


def test_gates_weigh_examples() -> None:
    student, teacher = quiet(8, 1), quiet(12, 2)

    def passed(gate: Any, progress: float = 0.25, **more: Any) -> Any:
        edge = Edge(source="t", target="s", objective=SoftTargets(), gate=gate, **more)
        keep = Edge(source="labels", target="s", objective=CrossEntropy())
        flow = flow_of([Labels(), frozen(teacher), learner(student)], [keep, edge])
        flow.set_mode(training=False)
        try:
            return flow(BATCH, progress)
        finally:
            flow.close()

    output, taught = student.eval()(BATCH.inputs), teacher.eval()(BATCH.inputs)
    labels = F.cross_entropy(output, BATCH.labels)
    soft_N = SoftTargets()(output, taught)
    right_N = (taught.argmax(1) == BATCH.labels).float()
    assert 0 < float(right_N.mean()) < 1
    torch.testing.assert_close(passed(Correct()).total, labels + (soft_N * right_N).sum() / 16)
    torch.testing.assert_close(passed(Linear()).total, labels + 0.25 * soft_N.mean())
    torch.testing.assert_close(passed(CutOff()).total, labels)
    torch.testing.assert_close(
        passed(lambda losses, *_: (losses > 1).float()).total, labels + (soft_N * (soft_N > 1)).mean()
    )
    torch.testing.assert_close(
        passed(Linear(), schedule=LinearWarmup(until=0.5), weight=2.0).total, labels + 2 * 0.5 * 0.25 * soft_N.mean()
    )


def test_a_gate_that_reads_labels_refuses_mixed_ones() -> None:
    mixed = dataclasses.replace(BATCH, labels=0.7 * F.one_hot(BATCH.labels, 4) + 0.075)
    edge = Edge(source="t", target="s", objective=SoftTargets(), gate=Correct())
    nodes = [frozen(quiet(12, 2)), learner(quiet(8, 1))]
    with pytest.raises(GraphError, match="class indices"):
        Flow(Stage(name="s", graph=Graph(nodes=nodes, edges=[edge]), epochs=1), mixed)
    flow_of(nodes, [edge]).close()  # of one class each, they are fine


def test_what_a_gate_sees_has_no_gradient() -> None:
    seen: list[bool] = []

    def gate(losses: Tensor, labels: Tensor | None, source: Tensor, target: Tensor) -> Tensor:
        seen.extend([losses.requires_grad, source.requires_grad, target.requires_grad])
        return torch.ones_like(losses)

    edges = [Edge(source="b", target="a", objective=SoftTargets(), gate=gate)]
    flow = flow_of([learner(quiet(8, 1), "a"), learner(quiet(8, 2), "b")], edges)
    flow(BATCH, 0.0)
    assert seen
    assert not any(seen)
    flow.close()


def test_an_ensemble_teaches_with_the_mean_of_its_members() -> None:
    student, one, two = quiet(8, 1), quiet(8, 2).eval(), quiet(8, 3).eval()
    nodes = [frozen(one, "x"), frozen(two, "y"), Ensemble(name="e", of=["x", "y"], combine=Mean()), learner(student)]
    flow = flow_of(nodes, [Edge(source="e", target="s", objective=SoftTargets())])
    flow.set_mode(training=False)
    expected = SoftTargets()(student(BATCH.inputs), (one(BATCH.inputs) + two(BATCH.inputs)) / 2).mean()
    torch.testing.assert_close(flow(BATCH, 0.0).total, expected)
    flow.close()


@settings
class Times:
    factor: float
    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs * self.factor + (uniforms_NK if self.draws else 0)


def test_nodes_see_what_they_are_told_to() -> None:
    student, teacher = quiet(8, 1), quiet(8, 2)
    nodes = [frozen(teacher, view=Times(factor=3.0)), learner(student)]
    graph = Graph(nodes=nodes, edges=[Edge(source="t", target="s", objective=SoftTargets())])
    flow = Flow(Stage(name="s", graph=graph, epochs=1), BATCH, augment=Times(factor=2.0, draws=1))
    flow.set_mode(training=False)
    augmented = BATCH.inputs * 2 + uniforms(BATCH.index, 1, seed=5)
    expected = SoftTargets()(student(augmented), teacher(BATCH.inputs * 3)).mean()
    torch.testing.assert_close(flow(BATCH, 0.0, view_seed=5).total, expected)
    outside = SoftTargets()(student(BATCH.inputs), teacher(BATCH.inputs * 3)).mean()
    torch.testing.assert_close(flow(BATCH, 0.0, training=False).total, outside)
    flow.close()


def test_an_example_is_seen_alike_in_every_batch() -> None:
    student, teacher = quiet(8, 1), quiet(8, 2)
    graph = Graph(
        nodes=[frozen(teacher), learner(student)], edges=[Edge(source="t", target="s", objective=SoftTargets())]
    )
    flow = Flow(Stage(name="s", graph=graph, epochs=1), BATCH, augment=Times(factor=1.0, draws=1))
    flow.set_mode(training=False)
    whole = flow(BATCH, 0.0, view_seed=3).total
    parts = [clusters().train.fetch(torch.arange(i, i + 4)) for i in (12, 0, 8, 4)]
    mean = sum(flow(part, 0.0, view_seed=3).total for part in parts) / 4
    torch.testing.assert_close(whole, mean)
    assert not torch.allclose(whole, flow(BATCH, 0.0, view_seed=4).total, atol=1e-4)
    flow.close()


def test_snapshots_follow_when_they_should() -> None:
    original = quiet(8, 1)
    for when, moments in (
        (LastEpoch(), "after_epoch"),
        (LastStep(), "before_step"),
        (MovingAverage(decay=0.75), "after_step"),
    ):
        copied = copy.deepcopy(original)
        with torch.no_grad():
            for p in [*copied.parameters(), *copied.norm.buffers()]:
                p.add_(1)
        before = copy.deepcopy(copied.state_dict())
        for moment in ("before_step", "after_step", "after_epoch"):
            if moment != moments:
                getattr(when, moment)(copied, original)
        assert all(torch.equal(v, before[k]) for k, v in copied.state_dict().items())
        getattr(when, moments)(copied, original)
        share = 0.25 if isinstance(when, MovingAverage) else 1.0
        for name, value in copied.state_dict().items():
            now = original.state_dict()[name]
            expected = torch.lerp(before[name], now, share) if value.is_floating_point() else now
            torch.testing.assert_close(value, expected)


def test_a_moving_average_without_buffers_would_differ() -> None:
    original = quiet(8, 1)
    original.norm.running_mean += 1
    copied = quiet(8, 1)
    follow(copied, original, share=0.5)
    assert torch.allclose(copied.norm.running_mean, torch.full((8,), 0.5))


class Projected:
    """A rule on gradients (PCGrad for two losses): what the contract of `Combine` must allow."""

    def __call__(self, losses: Mapping[str, Tensor], parameters: Sequence[nn.Parameter]) -> Tensor:
        flat = []
        for loss in losses.values():
            found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
            flat.append(
                torch.cat(
                    [
                        torch.zeros_like(p).flatten() if g is None else g.flatten()
                        for g, p in zip(found, parameters, strict=True)
                    ]
                )
            )
        g1, g2 = flat
        dot = g1 @ g2
        moved = g1 + g2 if dot >= 0 else g1 - dot / (g2 @ g2) * g2 + g2 - dot / (g1 @ g1) * g1
        parts = moved.split([p.numel() for p in parameters])
        return sum((p * d.reshape(p.shape)).sum() for p, d in zip(parameters, parts, strict=True))


@settings
class Away:
    """The opposite of what the labels teach, in part."""

    card: ClassVar[Card] = CrossEntropy.card

    def __call__(self, given: Tensor, labels: Tensor, /) -> Tensor:
        return -0.5 * CrossEntropy()(given, labels) + given.square().mean(1)


def test_a_rule_on_gradients_can_be_a_combine() -> None:
    student = quiet(8, 1)
    edges = [Edge(source="labels", target="s", objective=o) for o in (CrossEntropy(), Away())]
    flow = flow_of([Labels(), learner(student, combine=Projected())], edges)
    flow.set_mode(training=False)
    flow(BATCH, 0.0).total.backward()
    got = torch.cat([g.flatten() for g in gradients(student)])
    output = student(BATCH.inputs)
    each = []
    for objective in (CrossEntropy(), Away()):
        found = torch.autograd.grad(
            objective(output, BATCH.labels).mean(), list(student.parameters()), retain_graph=True
        )
        each.append(torch.cat([g.flatten() for g in found]))
    g1, g2 = each
    assert float(g1 @ g2) < 0
    expected = g1 - (g1 @ g2) / (g2 @ g2) * g2 + g2 - (g1 @ g2) / (g1 @ g1) * g1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    flow.close()


def test_cut_reaches_into_tuples() -> None:
    value = torch.ones(1, requires_grad=True)
    assert not cut((value, [value]))[1][0].requires_grad


def test_an_objective_with_weights_belongs_to_the_target() -> None:
    class Scaled(nn.Module):
        card = CrossEntropy.card

        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, given: Tensor, source: Tensor) -> Tensor:
            return self.scale * F.mse_loss(given, source, reduction="none").mean(1)

    objective, student = Scaled(), quiet(8, 1)
    flow = flow_of([frozen(quiet(8, 2)), learner(student)], [Edge(source="t", target="s", objective=objective)])
    assert objective.scale in set(flow.owners["s"].parameters)
    assert "scale" not in " ".join(student.state_dict())
    flow.close()


def test_the_batch_is_what_it_was() -> None:
    before = BATCH.inputs.clone()
    flow = flow_of([Labels(), learner(quiet(8, 1))], [Edge(source="labels", target="s", objective=CrossEntropy())])
    flow(BATCH, 0.0)
    assert isinstance(BATCH, Batch)
    assert torch.equal(BATCH.inputs, before)
    flow.close()


def test_a_teacher_whose_edges_are_closed_is_not_computed() -> None:
    called: list[str] = []

    def noted(name: str, module: nn.Module) -> nn.Module:
        module.register_forward_hook(lambda *_: called.append(name))
        return module

    edges = [
        Edge(source="labels", target="s", objective=CrossEntropy()),
        Edge(source="t", target="s", objective=SoftTargets(), schedule=Window(start=0.5)),
        Edge(source="u", target="s", objective=SoftTargets(), gate=Linear()),
    ]
    nodes = [Labels(), frozen(noted("t", quiet(12, 2))), frozen(noted("u", quiet(12, 3)), "u")]
    flow = flow_of([*nodes, learner(noted("s", quiet(8, 1)))], edges)
    for progress, who in ((0.0, ["s"]), (0.25, ["s", "u"]), (0.75, ["s", "t", "u"])):
        called.clear()
        losses = flow(BATCH, progress).losses
        assert sorted(called) == who
        assert len(losses) == len(who)
