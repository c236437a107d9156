"""A network that runs once more with the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, settings
from lessen.core.errors import GraphError, TapError
from lessen.core.seeds import derive
from lessen.engine.evaluate import evaluate
from lessen.graph import (
    Edge,
    Fit,
    From,
    Graph,
    InputNoise,
    Labels,
    OtherData,
    Stage,
    Variant,
    Way,
    WithDropout,
    WithoutLayers,
    validate,
)
from lessen.graph.nodes.unit import seed_draws
from lessen.knowledge import CrossEntropy, Hint, SoftTargets, WidthBridge
from lessen.measure.task import task_or_none
from lessen.testing.graphs import BATCH, check_resume, drawn_nodes, flow_of, frozen, gradients, learner, quiet
from lessen.testing.tasks import clusters, perceptron


class Skips(nn.Module):
    """With a residual block, a batch norm and dropout."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem, self.norm = nn.Linear(8, 6), nn.BatchNorm1d(6)
            self.block = nn.Sequential(nn.Linear(6, 6), nn.ReLU(inplace=True))
            self.dropout, self.head = nn.Dropout(0.3), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.dropout(self.block(self.norm(self.stem(x)))))
        return output


@settings
class Doubled:
    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return 2 * inputs


VARIANTS: dict[str, dict[str, Any]] = {
    "noise": {"way": InputNoise(deviation=0.5)},
    "dropout": {"way": WithDropout()},
    "layers": {"way": WithoutLayers(paths=("block",))},
    "view": {"view": Doubled()},
}
SOFT = SoftTargets(temperature=1.0)


def nodes(**given: Any) -> list[Any]:
    return [Labels(), learner(Skips()), Variant("again", of="student", **given)]


def edges(**again: Any) -> list[Edge]:
    """The student and its other pass teach each other, as in R-Drop."""
    return [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="again", target="student", objective=SOFT),
        Edge(**{"source": "student", "target": "again", "objective": SOFT, "to_source": True, **again}),
    ]


def again_by_hand(network: Skips, name: str, x: Tensor) -> Tensor:
    """The other pass; what it draws is seeded as the graph does it."""
    seed_draws(7 + derive(0, "stream", "again"), x.device)
    if name == "noise":
        x = x + 0.5 * torch.randn_like(x)
    hidden = network.norm(network.stem(2 * x if name == "view" else x))
    hidden = hidden if name == "layers" else F.relu(network.block[0](hidden))
    output: Tensor = network.head(network.dropout(hidden))
    return output


@pytest.mark.parametrize("name", VARIANTS)
def test_it_equals_the_same_written_by_hand(name: str) -> None:
    given = nodes(**VARIANTS[name])
    hand = copy.deepcopy(given[1].module)
    flow = flow_of(given, edges())
    flow(BATCH, 0.0, draw=7).total.backward()
    seed_draws(7 + derive(0, "stream", "student"), BATCH.index.device)
    output = hand(BATCH.inputs)
    before = copy.deepcopy(hand.state_dict())
    other = again_by_hand(hand, name, BATCH.inputs)
    total = CrossEntropy()(output, BATCH.labels) + SOFT(output, other.detach()) + SOFT(other, output)
    total.mean().backward()
    torch.testing.assert_close(gradients(given[1].module), gradients(hand), rtol=1e-4, atol=1e-6)
    for key, value in given[1].module.state_dict().items():
        assert torch.equal(value, before[key]), key  # the other pass left the running statistics alone
    assert "forward" not in vars(given[1].module.block)
    flow.close()


@pytest.mark.parametrize("name", VARIANTS)
def test_it_is_trained_and_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    def make() -> Stage:
        graph = Graph(nodes=nodes(**VARIANTS[name]), edges=edges())
        return Stage(name="again", graph=graph, epochs=2, fit=Fit(batch=16))

    check_resume(make, tmp_path)


def test_a_frozen_teacher_with_dropout_draws_and_stays_in_eval_mode() -> None:
    teacher = perceptron(12, seed=2)
    given = [Labels(), learner(quiet()), frozen(teacher), Variant("again", of="teacher", way=WithDropout())]
    flow = flow_of(given, [Edge(source="again", target="student", objective=SOFT)])
    one, two, same = (float(flow(BATCH, 0.0, draw=draw).losses[0]) for draw in (1, 2, 1))
    assert one == same != two
    assert not any(module.training for module in teacher.modules())
    assert gradients(teacher) == [None] * len(gradients(teacher))
    flow.close()


def test_it_is_not_judged_and_its_bridge_learns_with_the_network() -> None:
    given = [*nodes(way=InputNoise()), frozen(quiet(12, 2))]
    hint = Edge(source="teacher", target="again", objective=Hint(), source_tap="norm", target_tap="norm",
                bridge=WidthBridge())  # fmt: skip
    flow = flow_of(given, [*edges(), hint])
    assert set(evaluate(flow, clusters(), torch.device("cpu"))) == {"student"}
    assert list(flow.owners) == ["student"]
    assert any(name.startswith("bridge:") for name in flow.owners["student"].named)
    assert list(flow.owners["student"].parts).count("network:student") == 1
    flow.close()


def test_a_network_taught_only_in_its_other_pass_learns_its_output() -> None:
    flow = flow_of(nodes(way=InputNoise()), [Edge(source="labels", target="again", objective=CrossEntropy())])
    assert flow.teaches_output("student")
    flow(BATCH, 0.0).total.backward()
    assert all(gradient is not None for gradient in gradients(flow.units["student"].module))  # type: ignore[arg-type]
    flow.close()


def test_a_student_on_made_images_is_judged_on_those_of_the_data(tmp_path: Path) -> None:
    def make() -> Stage:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            making = nn.Linear(8, 8)
        made = From("generator", to_node=True)
        given = [
            learner(making, "generator"),
            learner(quiet()),
            Variant("made", of="student", reads=made),
            frozen(quiet(12, 2), reads=made),
        ]
        edge = Edge(source="teacher", target="made", objective=SOFT, moves={"generator": -1, "student": 1})
        return Stage(name="free", graph=Graph(nodes=given, edges=[edge]), epochs=2, fit=Fit(batch=16, keep_best=False))

    check_resume(make, tmp_path)
    graph = make().graph
    flow = flow_of(graph.nodes, graph.edges)
    data = task_or_none(clusters(), quiet())
    assert data.task is not None
    assert "accuracy" in evaluate(flow, data, torch.device("cpu"))["student"]
    flow(BATCH, 0.0).total.backward()
    student, making = graph.nodes[1].network, graph.nodes[0].network
    assert student is not None
    assert making is not None
    assert all(gradient is not None for gradient in [*gradients(student), *gradients(making)])
    flow.close()


def test_a_student_also_learns_from_other_data() -> None:
    other = ArrayExamples(torch.randn(20, 8))
    read = From("unlabelled")
    given = [
        Labels(),
        learner(quiet()),
        OtherData("unlabelled", other),
        Variant("weak", of="student", reads=read, way=InputNoise(deviation=0.1)),
        Variant("strong", of="student", reads=read, view=Doubled()),
    ]
    consistent = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="weak", target="strong", objective=SOFT),
    ]
    flow = flow_of(given, consistent)
    flow(BATCH, 0.0, others={"unlabelled": other.fetch(torch.arange(4, 20))}).total.backward()
    assert list(flow.owners) == ["student"]
    flow.close()
    with pytest.raises(GraphError, match="compares examples of different data"):
        flow_of(given, [Edge(source="labels", target="weak", objective=CrossEntropy())])


def test_it_is_drawn() -> None:
    graph = Graph(nodes=nodes(way=WithoutLayers(paths=("block",))), edges=edges())
    drawn = drawn_nodes(Stage(name="s", graph=graph, epochs=1))["again"]
    assert drawn["of"] == ["student"]
    assert drawn["way"] == "WithoutLayers(paths=('block',))"
    assert drawn["moves"] == ["student"]


@settings
class Hot(Way):
    """A way from outside."""

    def change(self, inputs: Any) -> Any:
        return inputs * 10


def test_a_way_may_come_from_outside() -> None:
    given = nodes(way=Hot())
    flow = flow_of(given, edges())
    flow.set_mode(training=False)
    expected = SOFT(given[1].module(BATCH.inputs), given[1].module(10 * BATCH.inputs)).mean()
    torch.testing.assert_close(flow(BATCH, 0.0).losses[1], expected.detach())
    flow.close()


WRONG: list[tuple[list[Any], type[Exception], str]] = [
    (nodes(), GraphError, "runs 'student' as it is. Give it a way, a view or reads"),
    (nodes(way=WithoutLayers(paths=("blck",))), TapError, "cannot run 'student' in its way.*did you mean 'block'"),
    (
        [Labels(), learner(nn.Linear(8, 4)), Variant("again", of="student", way=WithDropout())],
        TapError,
        "has no dropout",
    ),
    ([Labels(), learner(Skips()), Variant("again", of="labels", way=WithDropout())], GraphError, "it needs a network"),
    (nodes(way=InputNoise(), reads=From("studnt")), GraphError, "did you mean 'student'"),
    (nodes(view=Doubled(), reads=From("student")), GraphError, "reads 'student', so it has no view"),
]


@pytest.mark.parametrize(("given", "kind", "said"), WRONG)
def test_what_does_not_fit_is_named(given: list[Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        validate(Stage(name="s", graph=Graph(nodes=given, edges=edges()), epochs=1), BATCH)
