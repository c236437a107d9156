"""Nodes that read a batch of another data set, and stages with data of their own."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import ArrayExamples, Batch, Data, ObjectiveInput, settings
from lessen.core.errors import DataError, GraphError, RunError
from lessen.core.files import read_lines
from lessen.core.identity import identify
from lessen.core.seeds import derive, uniforms
from lessen.engine import Course, run
from lessen.engine.evaluate import evaluate
from lessen.engine.training import Training
from lessen.graph import Cache, Edge, Fit, From, Gradient, Graph, Labels, LastStep, OtherData, Snapshot, Stage, validate
from lessen.graph.draw import draw
from lessen.knowledge import ContrastiveRepresentation, CrossEntropy, Hint, SimilarityPreserving, SoftTargets
from lessen.testing.graphs import BATCH, check_resume, drawn_nodes, flow_of, frozen, gradients, learner, quiet, rows
from lessen.testing.tasks import clusters


def unlabelled(count: int = 40, *, labels: bool = False) -> ArrayExamples:
    drawn = torch.Generator().manual_seed(7)
    x, y = torch.randn(count, 8, generator=drawn), torch.randint(4, (count,), generator=drawn)
    return ArrayExamples(x + 1, y if labels else None)


def nodes(**student: Any) -> list[Any]:
    shared = quiet()
    read = {"reads": From("unlabelled")}
    return [
        Labels(),
        learner(shared),
        OtherData("unlabelled", unlabelled()),
        learner(shared, "also", **{**read, **student}),
        frozen(quiet(12, 2), **read),
    ]


def stage(**more: Any) -> Stage:
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="teacher", target="also", objective=SoftTargets()),
    ]
    given = {"name": "other", "graph": Graph(nodes=nodes(), edges=edges), "epochs": 3, "fit": Fit(batch=16), **more}
    return Stage(**given)


def test_each_node_sees_its_own_batch() -> None:
    given = nodes()
    hand = copy.deepcopy(given[1].module)
    flow = flow_of(given, stage().graph.edges)
    other = unlabelled().fetch(torch.arange(20, 36))
    passed = flow(BATCH, 0.0, others={"unlabelled": other})
    passed.total.backward()
    labels = CrossEntropy()(hand(BATCH.inputs), BATCH.labels).mean()
    taught = given[4].module.eval()(other.inputs).detach()
    soft = SoftTargets()(hand(other.inputs), taught).mean()
    (labels + soft).backward()
    torch.testing.assert_close(passed.losses, {0: labels.detach(), 1: soft.detach()})
    torch.testing.assert_close(gradients(given[1].module), gradients(hand), rtol=1e-4, atol=1e-6)
    flow.close()


@settings
class Shifted:
    by: float
    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs + self.by + (uniforms_NK if self.draws else 0)


def test_those_that_read_it_have_views_of_their_own() -> None:
    data = OtherData("unlabelled", unlabelled(), augment=Shifted(by=1.0, draws=1))
    read = {"reads": From("unlabelled")}
    given = [data, learner(quiet(), **read), frozen(quiet(12, 2), view=Shifted(by=3.0), **read)]
    flow = flow_of(given, [Edge(source="teacher", target="student", objective=Hint())])
    flow.set_mode(training=False)
    other = unlabelled().fetch(torch.arange(20, 36))
    loss = flow(BATCH, 0.0, view_seed=5, others={"unlabelled": other}).total
    seen = other.inputs + 1 + uniforms(other.index, 1, seed=derive(5, "unlabelled"))
    expected = Hint()(given[1].module(seen), given[2].module(other.inputs + 3)).mean()
    torch.testing.assert_close(loss, expected)
    flow.close()


class Numbered(nn.Module):
    """An objective that reads labels and indices."""

    needs = (ObjectiveInput.LABELS, ObjectiveInput.INDEX)

    def forward(self, student: Tensor, given: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        _, labels, index = given
        return student.sum(1) * 0 + labels + 100 * index


def test_an_objective_gets_labels_and_indices_of_the_same_data() -> None:
    data = OtherData("unlabelled", unlabelled(labels=True))
    given = [data, learner(quiet(), reads=From("unlabelled")), Labels(name="theirs", of="unlabelled")]
    flow = flow_of(given, [Edge(source="theirs", target="student", objective=Numbered())])
    other = data.examples.fetch(torch.arange(20, 36))
    loss = flow(BATCH, 0.0, others={"unlabelled": other}).total
    torch.testing.assert_close(loss, (other.labels + 100 * other.index).float().mean())
    flow.close()


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    check_resume(stage, tmp_path)
    check_resume(lambda: stage(fit=Fit(batch=16, accumulate=2)), tmp_path / "accumulated")


def test_every_pass_over_it_has_each_example_once_in_an_order_of_its_own() -> None:
    training = Training(stage(), 0, clusters(), seed=0, device="cpu")
    orders = {}
    for name, (count, *of) in {"main": (80,), "other": (40, "unlabelled")}.items():
        parts = [index_N.tolist() for _, index_N in training._parts(0, count, *of)]
        orders[name] = parts
    first, second = ([*orders["other"][start], *orders["other"][start + 1]] for start in (0, 2))
    assert len(set(first)) == len(set(second)) == 32
    assert first != second
    assert orders["main"][0] != orders["other"][0]
    assert orders["main"] == [index_N.tolist() for _, index_N in training._parts(0)]
    training.close()


def test_what_reads_it_is_not_judged() -> None:
    flow = flow_of(nodes(), stage().graph.edges)
    assert set(evaluate(flow, clusters(), torch.device("cpu"))) == {"student"}
    assert list(flow(BATCH, 1.0, training=False).losses) == [0]
    flow.close()


def test_a_snapshot_and_a_gradient_read_the_same_data() -> None:
    given = [
        *nodes(),
        Snapshot(name="before", of="also", when=LastStep()),
        Gradient(name="g", of="also", tap="norm", loss=CrossEntropy(), source="theirs"),
        Labels(name="theirs", of="unlabelled"),
    ]
    given[2] = OtherData("unlabelled", unlabelled(labels=True))
    edges = [
        Edge(source="before", target="also", objective=Hint()),
        Edge(source="g", target="also", objective=Hint(), target_tap="norm"),
    ]
    flow = flow_of(given, edges)
    flow.set_mode(training=False)
    assert float(flow(BATCH, 0.0).losses[0]) == 0.0
    flow.close()


def edge_stage(edge: Edge, *more: Any) -> Stage:
    edges = [stage().graph.edges[0], edge]
    return Stage(name="s", graph=Graph(nodes=[*nodes(), *more], edges=edges), epochs=1)


WRONG: list[tuple[Edge, list[Any], type[Exception], str]] = [
    (Edge("labels", "also", CrossEntropy()), [], GraphError, "compares examples of different data"),
    (Edge("theirs", "also", CrossEntropy()), [Labels(name="theirs", of="unlabelled")], DataError, "needs labels"),
    (Edge("theirs", "also", CrossEntropy()), [Labels(name="theirs", of="student")], GraphError, "a node of OtherData"),
    (
        Edge("g", "student", Hint(), target_tap="norm"),
        [Gradient(name="g", of="also", tap="norm", loss=CrossEntropy(), source="labels")],
        GraphError,
        "mixes examples of the data of the stage and 'unlabelled'",
    ),
    (
        Edge("cached", "also", Hint()),
        [frozen(quiet(), "cached", reads=From("unlabelled"), cache=Cache())],
        GraphError,
        "cannot be cached",
    ),
    (Edge("e", "x", Hint()), [OtherData("e", unlabelled(0)), learner(quiet(), "x")], GraphError, "has no examples"),
]


@pytest.mark.parametrize(("edge", "more", "kind", "said"), WRONG)
def test_what_does_not_fit_is_named(edge: Edge, more: list[Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        validate(edge_stage(edge, *more), BATCH)


def test_an_objective_between_batches_may_compare_different_data() -> None:
    assert SimilarityPreserving.relational
    edge = Edge(source="teacher", target="student", objective=SimilarityPreserving())
    validate(edge_stage(edge), BATCH)


def test_a_memory_of_examples_is_as_long_as_the_data_that_it_remembers() -> None:
    edge = Edge("teacher", "also", ContrastiveRepresentation())
    made = edge_stage(edge)
    made.graph.nodes[2] = OtherData("unlabelled", unlabelled(120, labels=True))  # type: ignore[index]
    training = Training(replace(made, fit=Fit(batch=16)), 0, clusters(), seed=0, device="cpu")
    for _ in range(5):
        training.advance()
    training.close()


def test_too_few_examples_are_refused() -> None:
    made = stage()
    made.graph.nodes[2] = OtherData("unlabelled", unlabelled(12))  # type: ignore[index]
    with pytest.raises(DataError, match="'unlabelled' has 12 examples, fewer than a batch of 16"):
        run([made], clusters(), progress=False, device="cpu")


def test_it_is_drawn_and_part_of_the_identity() -> None:
    assert drawn_nodes(stage())["unlabelled"] == {
        "name": "unlabelled", "kind": "OtherData", "learns": False, "examples": 40
    }  # fmt: skip
    assert draw([stage()])[0]["nodes"][0] == {"name": "labels", "kind": "Labels", "learns": False}
    assert "of" not in identify(Labels())
    one, two = (identify(OtherData("u", unlabelled(count))) for count in (40, 39))
    assert one != two


# Stages with data of their own.


def halves() -> tuple[Data, Data]:
    """The same task from two data sets."""
    data = clusters()
    inputs = data.train.fetch(torch.arange(len(data.train)))
    assert isinstance(inputs, Batch)
    other = replace(data, train=ArrayExamples(inputs.inputs[:48] * 2, inputs.labels[:48]), name="other")
    return data, other


def two_stages() -> list[Stage]:
    student = learner(quiet())
    edges = [Edge(source="labels", target="student", objective=CrossEntropy())]
    graph = Graph(nodes=[Labels(), student], edges=edges)
    first = Stage(name="first", graph=graph, epochs=1, fit=Fit(batch=16), data=halves()[1])
    return [first, Stage(name="second", graph=graph, epochs=1, fit=Fit(batch=16))]


def test_a_stage_learns_from_its_own_data_and_is_resumed(tmp_path: Path) -> None:
    ends = []
    for name, stops in (("whole", [10**6]), ("parts", [2, 3, 10**6])):
        for stop in stops:
            stages = two_stages()
            course = Course(stages, halves()[0], folder=tmp_path / name, device="cpu", resume=True)
            steps = course.steps()
            for _ in range(stop):
                if next(steps, None) is None:
                    break
            steps.close()
        network = stages[1].graph.nodes[1].network
        assert network is not None
        ends.append({key: value.clone() for key, value in network.state_dict().items()})
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    counts = [row["stage"] for row in read_lines(tmp_path / "whole" / "log.jsonl") if row["kind"] == "step"]
    assert (counts.count(0), counts.count(1)) == (3, 5)


def test_other_data_of_a_stage_is_another_run(tmp_path: Path) -> None:
    course = Course(two_stages(), halves()[0], folder=tmp_path, device="cpu")
    steps = course.steps()
    for _ in range(4):
        next(steps)
    steps.close()
    changed = two_stages()
    changed[0] = replace(changed[0], data=halves()[0])
    with pytest.raises(RunError, match="belongs to a run with other"):
        Course(changed, halves()[0], folder=tmp_path, device="cpu", resume=True)
    about = two_stages()
    assert about[0].data is not None
    about[0] = replace(about[0], data=replace(about[0].data, about={"from": "elsewhere"}))
    Course(about, halves()[0], folder=tmp_path, device="cpu", resume=True)
