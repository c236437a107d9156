"""A network that is called with another node's value, or with one input of several."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, Batch, settings
from lessen.core.errors import DataError, GraphError, TapError
from lessen.core.identity import identify
from lessen.core.settings import added, named_fields
from lessen.engine import run
from lessen.graph import (
    Branch,
    ByIndex,
    Cache,
    CutOff,
    Edge,
    Ensemble,
    Fit,
    From,
    Graph,
    Input,
    Labels,
    LastStep,
    Network,
    OnPolicy,
    Snapshot,
    Stage,
    Window,
)
from lessen.graph.check import check
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.surgery.taps import Tap
from lessen.testing.graphs import BATCH, check_resume, drawn_nodes, flow_of, frozen, gradients, learner, quiet
from lessen.testing.tasks import clusters


def auxiliary(seed: int = 5) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def stage(reads: Any = None, **more: Any) -> Stage:
    """An auxiliary network on the student's features learns from the labels, and teaches the student."""
    nodes = [
        Labels(),
        learner(quiet()),
        learner(auxiliary(), "auxiliary", reads=reads or From("student", "norm", to_node=True), **more),
    ]
    edges = [
        Edge(source="labels", target="auxiliary", objective=CrossEntropy()),
        Edge(source="auxiliary", target="student", objective=SoftTargets(temperature=2.0)),
    ]
    return Stage(name="reads", graph=Graph(nodes=nodes, edges=edges), epochs=3, fit=Fit(batch=16))


@pytest.mark.parametrize("to_node", [False, True])
def test_a_network_on_features_equals_the_same_written_by_hand(to_node: bool) -> None:
    student, head = quiet(), auxiliary()
    hand, hand_head = copy.deepcopy(student), copy.deepcopy(head)
    nodes = [learner(head, "auxiliary", reads=From("student", "norm", to_node=to_node)), learner(student), Labels()]
    flow = flow_of(nodes, [Edge(source="labels", target="auxiliary", objective=CrossEntropy())])
    flow(BATCH, 0.0).total.backward()
    features = hand.norm(hand.layer1(BATCH.inputs))
    F.cross_entropy(hand_head(features if to_node else features.detach()), BATCH.labels).backward()
    torch.testing.assert_close(gradients(head), gradients(hand_head), rtol=0, atol=0)
    torch.testing.assert_close(gradients(student), gradients(hand), rtol=0, atol=0)
    assert (student.layer1.weight.grad is not None) == to_node
    flow.close()


def test_gradient_passes_through_a_frozen_network_and_does_not_stay_there() -> None:
    student, teacher = quiet(classes=8), quiet(seed=2)
    hand = copy.deepcopy(student)
    nodes = [learner(student), frozen(teacher, reads=From("student", to_node=True)), Labels()]
    flow = flow_of(nodes, [Edge(source="labels", target="teacher", objective=CrossEntropy())])
    flow(BATCH, 0.0).total.backward()
    F.cross_entropy(copy.deepcopy(teacher).eval()(hand(BATCH.inputs)), BATCH.labels).backward()
    torch.testing.assert_close(gradients(student), gradients(hand), rtol=0, atol=0)
    assert all(gradient is None for gradient in gradients(teacher))
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    flow.close()


@settings
class Doubled:
    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return 2 * inputs


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = quiet(seed=3)

    def forward(self, one: Tensor, two: Tensor) -> Tensor:
        output: Tensor = self.inner(one - two)
        return output


def test_each_network_is_called_with_the_inputs_that_it_names() -> None:
    batch = Batch({"depth": 3 * BATCH.inputs, "image": BATCH.inputs}, BATCH.index, BATCH.labels)
    student, teacher, both = quiet(), quiet(seed=2), Both()
    nodes = [
        learner(student, reads=Input("image")),
        frozen(teacher, reads=Input("depth"), view=Doubled()),
        frozen(both, "both", reads=(Input("depth"), Input("image"))),
    ]
    edges = [Edge(source=name, target="student", objective=Hint()) for name in ("teacher", "both")]
    flow = flow_of(nodes, edges, batch)
    flow.set_mode(training=False)
    passed = flow(batch, 0.0)
    output = student(BATCH.inputs)
    torch.testing.assert_close(passed.losses[0], Hint()(output, teacher(6 * BATCH.inputs)).mean())
    torch.testing.assert_close(passed.losses[1], Hint()(output, both.inner(2 * BATCH.inputs)).mean())
    flow.close()


def test_inputs_of_a_tuple_are_named_by_number() -> None:
    batch = Batch((BATCH.inputs, -BATCH.inputs), BATCH.index, BATCH.labels)
    nodes = [Labels(), learner(quiet(), reads=Input(1))]
    flow = flow_of(nodes, [Edge(source="labels", target="student", objective=CrossEntropy())], batch)
    flow.close()
    nodes = [Labels(), learner(quiet(), reads=Input(2))]
    with pytest.raises(DataError, match="no input 2 in the batch: the data gives input 0, input 1"):
        flow_of(nodes, [Edge(source="labels", target="student", objective=CrossEntropy())], batch)


def test_a_snapshot_and_a_branch_of_a_reader_read_the_same() -> None:
    student, head = quiet(), auxiliary()
    nodes = [
        Snapshot(name="before", of="auxiliary", when=LastStep()),
        Branch(name="exit", of="auxiliary", tap=Tap(path="0")),
        learner(head, "auxiliary", reads=From("student", "norm")),
        learner(student),
        Labels(),
    ]
    edges = [
        Edge(source="before", target="auxiliary", objective=Hint()),
        Edge(source="labels", target="exit", objective=CrossEntropy()),
    ]
    flow = flow_of(nodes, edges)
    assert float(flow(BATCH, 0.0).losses[0]) == 0.0  # the copy is the network itself before the first step
    flow.close()


def test_what_a_learner_reads_is_computed_although_its_edges_are_closed() -> None:
    student = quiet()
    nodes = [Labels(), learner(student), learner(auxiliary(), "late", reads=From("teacher", "norm")), frozen(quiet())]
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="labels", target="late", objective=CrossEntropy(), schedule=Window(start=0.5)),
    ]
    flow = flow_of(nodes, edges)
    assert list(flow(BATCH, 0.0).losses) == [0]
    assert list(flow(BATCH, 0.6).losses) == [0, 1]
    flow.close()


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    before = {f"auxiliary.{key}": value.clone() for key, value in auxiliary().state_dict().items()}
    after = check_resume(stage, tmp_path)
    assert all(not torch.equal(value, after[name]) for name, value in before.items())


def test_a_run_with_named_inputs_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    data = clusters()

    def named(examples: Any) -> ArrayExamples:
        batch = examples.fetch(torch.arange(len(examples)))
        return ArrayExamples({"image": batch.inputs, "depth": batch.inputs.flip(1)}, batch.labels)

    splits = {split: named(getattr(data, split)) for split in ("train", "validation", "test")}

    def make() -> Stage:
        nodes = [Labels(), learner(quiet(), reads=Input("image")), frozen(quiet(seed=2), reads=Input("depth"))]
        edges = [
            Edge(source="labels", target="student", objective=CrossEntropy()),
            Edge(source="teacher", target="student", objective=SoftTargets()),
        ]
        return Stage(name="named", graph=Graph(nodes=nodes, edges=edges), epochs=2, fit=Fit(batch=16))

    check_resume(make, tmp_path, replace(data, **splits))


def test_it_is_drawn() -> None:
    drawn = drawn_nodes(stage())
    assert drawn["auxiliary"]["of"] == ["student"]
    assert drawn["auxiliary"]["reads"] == ["student.norm"]
    assert "reads" not in drawn["student"]


class Filed(ByIndex):
    """Outputs from a file."""


WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (From("studnt"), {}, GraphError, "did you mean 'student'"),
    (From("labels", "norm"), {}, GraphError, "has no layers"),
    (From("labels", to_node=True), {}, GraphError, "cannot learn. Leave to_node out"),
    (From("student", "nrm"), {}, TapError, "did you mean 'norm'"),
    (From("student", "norm"), {"view": Doubled()}, GraphError, "has no view of the batch"),
    (From("student", "norm"), {"learns": False, "cache": Cache()}, GraphError, "cannot be cached"),
    (From("student"), {"learns": False, "module": Filed()}, GraphError, "come from a file, so it reads no student"),
    (Input("depth"), {}, DataError, "There is no input 'depth' in the batch"),
]


@pytest.mark.parametrize(("reads", "more", "kind", "said"), WRONG)
def test_what_cannot_be_read_is_named(reads: Any, more: dict[str, Any], kind: type[Exception], said: str) -> None:
    made = stage()
    nodes = list(made.graph.nodes)
    nodes[2] = replace(nodes[2], reads=reads, **more)
    with pytest.raises(kind, match=said):
        run([replace(made, graph=replace(made.graph, nodes=nodes))], clusters(), progress=False, device="cpu")


def test_a_circle_is_named() -> None:
    nodes = [
        learner(quiet(), "a", reads=From("both")),
        learner(quiet(), "b", reads=From("a")),
        Ensemble(name="both", of=("b",)),
        Labels(),
    ]
    edges = [Edge(source="labels", target="b", objective=CrossEntropy())]
    with pytest.raises(GraphError, match="'a' reads 'both' reads 'b' reads 'a'"):
        check(Stage(name="circle", graph=Graph(nodes=nodes, edges=edges), epochs=1))


def test_a_reader_cannot_generate() -> None:
    made = stage()
    made = replace(made, graph=replace(made.graph, nodes=[*made.graph.nodes, OnPolicy(of="auxiliary")]))
    with pytest.raises(GraphError, match="cannot let it generate"):
        check(made)


def test_identities_of_before_are_the_same() -> None:
    network = Network(name="student", module=nn.Identity(), learns=False)
    assert "reads" not in identify(network)
    assert identify(replace(network, reads=Input("depth")))["reads"]["name"] == "depth"

    @named_fields
    class Given:
        a: int | None = None
        b: int | None = added()

    assert identify(Given()).keys() == {"class", "a"}
    assert identify(Given(b=0)).keys() == {"class", "a", "b"}


def test_nothing_is_sent_through_an_edge_that_is_cut_off() -> None:
    nodes = [
        Labels(),
        learner(quiet()),
        frozen(quiet(classes=8), "teacher"),
        learner(quiet(), "x", reads=From("teacher")),
    ]
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="labels", target="x", objective=CrossEntropy(), gate=CutOff()),
    ]
    flow = flow_of(nodes, edges)
    assert list(flow.units) == ["labels", "student"]
    flow.close()
