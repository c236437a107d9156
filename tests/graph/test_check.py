"""A stage is checked before its first step, and the text says what to do."""

import copy
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Card, settings
from lessen.core.errors import DataError, GraphError, LessenError, NetworkError, SettingError, ShapeError, TapError
from lessen.data import AsTheyAre
from lessen.graph import (
    Branch,
    Cache,
    Cosine,
    CutOff,
    Edge,
    Ensemble,
    Flow,
    Graph,
    Labels,
    Mean,
    Network,
    Snapshot,
    Stage,
    Steps,
    Weighted,
    Window,
    edge_names,
    validate,
)
from lessen.graph.draw import draw
from lessen.knowledge import CrossEntropy, Hint, SoftTargets, WidthBridge
from lessen.surgery.digest import digest
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters, perceptron


def batch() -> Batch:
    return clusters().train.fetch(torch.arange(4))


def student(**changes: Any) -> Network:
    return Network(**{"name": "student", "module": perceptron(8, seed=1), "learns": True, **changes})


def teacher(**changes: Any) -> Network:
    return Network(**{"name": "teacher", "module": perceptron(12, seed=2), "learns": False, **changes})


def labels_edge(**changes: Any) -> Edge:
    return Edge(**{"source": "labels", "target": "student", "objective": CrossEntropy(), **changes})


def hint(**changes: Any) -> Edge:
    given = {"source_tap": "layer1", "target_tap": "layer1", "bridge": WidthBridge(), **changes}
    return Edge(source="teacher", target="student", objective=Hint(), **given)


def stage(nodes: list[Any], edges: list[Edge], **changes: Any) -> Stage:
    return Stage(**{"name": "s", "graph": Graph(nodes=nodes, edges=edges), "epochs": 1, **changes})


def good() -> Stage:
    return stage([Labels(), teacher(), student()], [labels_edge(), hint()])


def test_a_good_stage_is_valid_and_untouched() -> None:
    tried = good()
    modules = [node.module for node in tried.graph.nodes if isinstance(node, Network)]
    before, modes = [digest(m) for m in modules], [p.training for m in modules for p in m.modules()]
    random = torch.get_rng_state()
    validate(tried, batch())
    assert [digest(m) for m in modules] == before
    assert [p.training for m in modules for p in m.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    assert not any(p._forward_hooks or p._forward_pre_hooks for m in modules for p in m.modules())


def test_a_network_that_counts_its_calls_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = perceptron(8, seed=1)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.inner(x + 0 * torch.rand(1))

    counting = Counting()
    validate(stage([Labels(), student(module=counting)], [labels_edge()]), batch())
    assert float(counting.calls) == 0


@settings
class Averaged:
    card: ClassVar[Card] = CrossEntropy.card

    def __call__(self, given: Tensor, source: Tensor, /) -> Tensor:
        return given.mean()


@settings
class NotFinite:
    card: ClassVar[Card] = CrossEntropy.card

    def __call__(self, given: Tensor, source: Tensor, /) -> Tensor:
        return given.mean(1) / 0


@settings
class Fixed:
    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs


def shared() -> nn.Module:
    layer = nn.Linear(8, 8)
    return nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(8, 4))


NET = perceptron(8, seed=3)
BAD: dict[str, tuple[Any, type[LessenError], str]] = {
    "no length": (lambda: stage([Labels(), student()], [labels_edge()], epochs=None), GraphError, "epochs or steps"),
    "two lengths": (lambda: stage([Labels(), student()], [labels_edge()], steps=3), GraphError, "not both"),
    "no steps": (lambda: stage([Labels(), student()], [labels_edge()], epochs=0), GraphError, "at least 1"),
    "same name": (lambda: stage([student(), student()], []), GraphError, "Two nodes are called 'student'"),
    "name of an edge": (lambda: stage([student(name="a->b")], []), GraphError, "'a->b'"),
    "unknown source": (
        lambda: stage(
            [Labels(), teacher(), student()], [Edge(source="techer", target="student", objective=SoftTargets())]
        ),
        GraphError,
        "did you mean 'teacher'",
    ),
    "unknown target": (lambda: stage([Labels(), student()], [labels_edge(target="studnet")]), GraphError, "'student'"),
    "frozen target": (
        lambda: stage([Labels(), teacher()], [labels_edge(target="teacher")]),
        GraphError,
        "cannot learn",
    ),
    "labels as target": (
        lambda: stage([Labels(), student()], [labels_edge(target="labels")]),
        GraphError,
        "cannot learn",
    ),
    "gradient to frozen": (
        lambda: stage(
            [teacher(), student()], [Edge(source="teacher", target="student", objective=SoftTargets(), to_source=True)]
        ),
        GraphError,
        "to_source",
    ),
    "tap in labels": (lambda: stage([Labels(), student()], [labels_edge(source_tap="x")]), GraphError, "no layers"),
    "infinite weight": (lambda: stage([Labels(), student()], [labels_edge(weight=math.inf)]), GraphError, "finite"),
    "nobody learns": (lambda: stage([Labels(), student()], []), GraphError, "No node learns"),
    "all weights 0": (lambda: stage([Labels(), student()], [labels_edge(weight=0)]), GraphError, "No node learns"),
    "all cut off": (lambda: stage([Labels(), student()], [labels_edge(gate=CutOff())]), GraphError, "No node learns"),
    "no weights": (
        lambda: stage([Labels(), student(module=nn.Flatten())], [labels_edge()]),
        GraphError,
        "requires_grad",
    ),
    "cache of a learner": (lambda: stage([Labels(), student(cache=Cache())], [labels_edge()]), GraphError, "cached"),
    "snapshot of nobody": (
        lambda: stage([Labels(), student(), Snapshot(name="p", of="studen")], [labels_edge()]),
        GraphError,
        "did you mean 'student'",
    ),
    "snapshot of labels": (
        lambda: stage([Labels(), student(), Snapshot(name="p", of="labels")], [labels_edge()]),
        GraphError,
        "a Labels; it needs a network",
    ),
    "ensemble of itself": (
        lambda: stage(
            [Labels(), student(), Ensemble(name="a", of=["b"]), Ensemble(name="b", of=["a"])], [labels_edge()]
        ),
        GraphError,
        "contain each other",
    ),
    "empty ensemble": (lambda: stage([student(), Ensemble(name="e", of=[])], []), GraphError, "no members"),
    "weights of an ensemble": (
        lambda: stage(
            [teacher(), student(), Ensemble(name="e", of=["teacher"], combine=Weighted(weights=(1, 2)))],
            [Edge(source="e", target="student", objective=SoftTargets())],
        ),
        ShapeError,
        "2 weights for 1 members",
    ),
    "members of an ensemble": (
        lambda: stage(
            [
                teacher(),
                student(),
                teacher(name="t2", module=perceptron(4, seed=0, classes=3)),
                Ensemble(name="e", of=["teacher", "t2"]),
            ],
            [Edge(source="e", target="student", objective=SoftTargets())],
        ),
        ShapeError,
        r"\(4, 4\) and \(4, 3\)",
    ),
    "one network twice": (
        lambda: stage([Labels(), student(module=NET), teacher(module=NET)], [labels_edge()]),
        GraphError,
        "share the weight",
    ),
    "unknown tap": (
        lambda: stage([teacher(), student()], [hint(target_tap="layr1")]),
        TapError,
        "did you mean 'layer1'",
    ),
    "tap called twice": (
        lambda: stage([teacher(), student(module=shared())], [hint(target_tap="0")]),
        TapError,
        "called 2 times",
    ),
    "shapes": (
        lambda: stage([teacher(), student()], [hint(bridge=None)]),
        ShapeError,
        r"(?s)teacher->student:layer1>layer1.*\(4, 8\).*\(4, 12\)",
    ),
    "no bridge fits": (
        lambda: stage(
            [teacher(), student()],
            [hint(target_tap="layer1", bridge=WidthBridge(), source_tap=Tap(path="head", side="input"))],
        ),
        ShapeError,
        "",
    ),
    "classes": (
        lambda: stage(
            [teacher(module=perceptron(4, seed=1, classes=3)), student()],
            [Edge(source="teacher", target="student", objective=SoftTargets())],
        ),
        ShapeError,
        r"(?s)\(4, 4\).*\(4, 3\)",
    ),
    "averaged": (
        lambda: stage([Labels(), student()], [labels_edge(objective=Averaged())]),
        GraphError,
        "one loss per example",
    ),
    "not finite": (lambda: stage([Labels(), student()], [labels_edge(objective=NotFinite())]), GraphError, "finite"),
    "gate": (
        lambda: stage([Labels(), student()], [labels_edge(gate=lambda *_: torch.ones(2))]),
        GraphError,
        "one weight per example",
    ),
    "inputs": (lambda: stage([Labels(), student(module=nn.Linear(5, 4))], [labels_edge()]), NetworkError, "'student'"),
    "head": (
        lambda: stage(
            [Labels(), student(), Branch(name="b", of="student", tap=Tap(path="layer1"), head=nn.Linear(3, 4))],
            [labels_edge(target="b")],
        ),
        ShapeError,
        r"head of the branch 'b'.*\(4, 8\)",
    ),
}
del BAD["no bridge fits"]


@pytest.mark.parametrize("name", list(BAD))
def test_a_bad_stage_is_refused(name: str) -> None:
    make, error, says = BAD[name]
    with pytest.raises(error, match=says):
        validate(make(), batch())


def test_no_bridge_fits() -> None:
    grid = nn.Sequential(nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(12, 4))
    tried = stage([teacher(module=grid), student()], [hint(source_tap="1")])
    with pytest.raises(ShapeError, match=r"(?s)\(4, 8\).*\(4, 3, 2, 2\)"):
        validate(tried, batch())


def test_labels_that_are_not_there() -> None:
    some = batch()
    with pytest.raises(DataError, match="has none"):
        validate(stage([Labels(), student()], [labels_edge()]), Batch(some.inputs, some.index))


def test_a_view_of_inputs_that_are_not_one_tensor() -> None:
    some = batch()
    with pytest.raises(DataError, match="one tensor"):
        validate(good(), Batch((some.inputs,), some.index, some.labels), augment=Fixed())


def test_a_cache_of_what_is_seen_at_random_is_refused_unless_the_teacher_sees_another_view() -> None:
    class Random:
        draws = 1

        def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
            return inputs * uniforms_NK

    edges = [labels_edge(), Edge(source="teacher", target="student", objective=SoftTargets())]
    cached = stage([Labels(), teacher(cache=Cache()), student()], edges)
    validate(cached, batch())
    with pytest.raises(GraphError, match=r"'teacher' sees the random view.*AsTheyAre\(\)"):
        validate(cached, batch(), augment=Random())
    validate(stage([Labels(), teacher(cache=Cache(), view=AsTheyAre()), student()], edges), batch(), augment=Random())


def test_names_of_edges() -> None:
    edges = [labels_edge(), labels_edge(), hint(), labels_edge()]
    assert edge_names(edges) == [
        "labels->student",
        "labels->student#2",
        "teacher->student:layer1>layer1",
        "labels->student#3",
    ]


def test_the_drawing() -> None:
    (drawn,) = draw([good()])
    assert drawn["nodes"][1] == {"name": "teacher", "kind": "Network", "learns": False}
    assert drawn["edges"][1] == {
        "name": "teacher->student:layer1>layer1",
        "source": "teacher",
        "target": "student",
        "objective": "Hint(distance=SquaredDistance())",
        "source_tap": "layer1",
        "target_tap": "layer1",
        "weight": 1.0,
        "schedule": None,
        "gate": "Through",
        "bridge": "WidthBridge()",
    }


def test_settings_of_schedules_are_checked() -> None:
    with pytest.raises(SettingError, match="ends at"):
        Window(start=0.5, end=0.2)
    assert [round(Cosine(warmup=0.2).at(p), 3) for p in (0.1, 0.2, 1.0)] == [0.5, 1.0, 0.0]
    assert Steps(drops=(0.5,), factor=0.5).at(0.6) == 0.5


def test_what_is_not_needed_is_not_computed() -> None:
    """A teacher behind edges of weight 0 is never called."""

    class Never(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise AssertionError("called")

    silent = Edge(source="teacher", target="student", objective=SoftTargets(), weight=0)
    tried = stage([Labels(), teacher(module=Never()), student()], [labels_edge(), silent])
    validate(tried, batch())
    flow = Flow(tried, batch())
    assert list(flow.units) == ["labels", "student"]
    flow.close()


def test_ensembles_do_what_they_say() -> None:
    shapes = [torch.Size((2, 3))] * 2
    a, b = torch.randn(2, 3), torch.randn(2, 3)
    torch.testing.assert_close(Mean().build(shapes)([a, b]), (a + b) / 2)
    torch.testing.assert_close(Weighted(weights=(1, 3)).build(shapes)([a, b]), (a + 3 * b) / 4)
    assert copy.deepcopy(Mean()) == Mean()


@settings
class Scaled:
    """Members of somebody who uses the library: the mean, times a number that learns."""

    learns: ClassVar[bool] = True

    def build(self, shapes: Sequence[torch.Size], /) -> nn.Module:
        class Made(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.scale = nn.Parameter(torch.ones(()))

            def forward(self, outputs: Sequence[Tensor]) -> Tensor:
                return torch.stack(list(outputs)).mean(0) * self.scale

        return Made()


def test_members_with_weights_of_their_own_learn_over_frozen_ones() -> None:
    frozen = [teacher(), teacher(name="other", module=perceptron(12, seed=3))]
    edge = Edge(source="labels", target="crowd", objective=CrossEntropy())

    def tried(combine: Any) -> Stage:
        return stage([Labels(), *frozen, Ensemble(name="crowd", of=("teacher", "other"), combine=combine)], [edge])

    flow = Flow(tried(Scaled()), batch())
    assert [list(owner.named) for owner in flow.owners.values()] == [["ensemble:crowd.scale"]]
    flow.close()
    with pytest.raises(GraphError, match="cannot learn"):
        validate(tried(Mean()), batch())
