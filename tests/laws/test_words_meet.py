"""Any two words of a graph in one stage: checked, drawn, trained, and resumed bit for bit after a stop."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lessen.graph
import lessen.knowledge
from lessen.core import ArrayExamples
from lessen.graph import (
    ActivationPenalty,
    Average,
    BatchMoments,
    Branch,
    Cache,
    ConfidencePenalty,
    DistillationOriented,
    Edge,
    Ensemble,
    FeatureGate,
    Fit,
    From,
    Gradient,
    Graph,
    InputNoise,
    Labels,
    LargestOutput,
    LastStep,
    LearnedGate,
    OtherData,
    Precision,
    Snapshot,
    SoftmaxOfLosses,
    Stage,
    StraightThrough,
    Turns,
    Variant,
    WithDropout,
)
from lessen.graph.draw import draw
from lessen.knowledge import CrossEntropy, Hint, SoftTargets, WidthBridge
from lessen.report.drawing import draw_graph
from lessen.surgery.taps import Tap
from lessen.testing.graphs import check_resume, frozen, learner, quiet
from lessen.testing.tasks import clusters, perceptron

SOFT = SoftTargets(temperature=2.0)


@dataclass
class Made:
    """A stage in the making: a student, a teacher and the labels, to which words are added."""

    nodes: list[Any]
    edges: list[Edge]
    gates: dict[str, Any] = field(default_factory=dict)
    fit: dict[str, Any] = field(default_factory=dict)
    student: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    turns: Turns | None = None

    def add(self, *parts: Any) -> None:
        """Nodes and edges."""
        for part in parts:
            (self.edges if isinstance(part, Edge) else self.nodes).append(part)

    def stage(self) -> Stage:
        nodes = [
            Labels(),
            learner(perceptron(8, seed=1), **self.student),
            frozen(quiet(12, 2), **self.teacher),
            *self.nodes,
        ]
        graph = Graph(nodes=nodes, edges=self.edges, gates=self.gates or None)
        fit = Fit(**{"batch": 16, "checkpoint_steps": 1, **self.fit})
        return Stage(name="meet", graph=graph, steps=4, fit=fit, turns=self.turns)


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return make()


def reads(made: Made) -> None:
    auxiliary = learner(seeded(lambda: nn.Linear(8, 4)), "auxiliary", reads=From("student", "norm", to_node=True))
    made.add(
        auxiliary,
        Edge(source="labels", target="auxiliary", objective=CrossEntropy()),
        Edge(source="auxiliary", target="student", objective=SOFT),
    )


def penalty(made: Made) -> None:
    made.add(
        Edge(target="student", objective=ConfidencePenalty(), weight=0.1),
        Edge(target="student", objective=ActivationPenalty(), target_tap="layer2", weight=0.1),
    )


def set_gate(made: Made) -> None:
    made.gates["best"] = SoftmaxOfLosses()
    made.add(
        frozen(quiet(12, 3), "second"),
        Edge(source="second", target="student", objective=SOFT, gate="best"),
        Edge(source="labels", target="student", objective=CrossEntropy(), gate="best"),
    )


def features(made: Made) -> None:
    made.add(
        frozen(quiet(10, 4), "third"),
        Ensemble(name="crowd", of=("teacher", "third"), combine=FeatureGate("layer1")),
        Edge(source="labels", target="crowd", objective=CrossEntropy()),
        Edge(source="crowd", target="student", objective=SOFT),
    )


def generator(made: Made) -> None:
    image = From("generator", to_node=True)
    made.add(
        learner(seeded(lambda: nn.Linear(8, 8)), "generator"),
        Variant("made", of="student", reads=image),
        frozen(quiet(12, 2), "judge", reads=image),
        Edge(source="judge", target="made", objective=SOFT, moves={"generator": -1, "student": 1}),
    )


def turns(made: Made) -> None:
    made.add(
        learner(seeded(lambda: quiet(8, 6)), "peer"),
        Edge(source="student", target="peer", objective=SOFT),
        Edge(source="peer", target="student", objective=SOFT, to_source=True),
    )
    made.turns = Turns(of=(("student", 2), ("peer", 1)))


def state(made: Made) -> None:
    made.add(Edge(target="student", objective=BatchMoments(), target_tap=Tap(path="norm", side="state"), weight=0.1))


def gradient(made: Made) -> None:
    made.add(
        Gradient(name="ours", of="student", tap=Tap(side="input"), loss=CrossEntropy(), source="labels"),
        Gradient(name="theirs", of="teacher", tap=Tap(side="input"), loss=LargestOutput()),
        Edge(source="theirs", target="ours", objective=Hint()),
    )


def other_data(made: Made) -> None:
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    made.add(
        OtherData("unlabelled", ArrayExamples(x)),
        Variant("strong", of="student", reads=From("unlabelled"), way=InputNoise()),
        Variant("weak", of="student", reads=From("unlabelled"), way=WithDropout()),
        Edge(source="weak", target="strong", objective=SOFT),
    )


def variant(made: Made) -> None:
    made.add(
        Variant("again", of="student", way=WithDropout()),
        Edge(source="again", target="student", objective=SOFT),
        Edge(source="student", target="again", objective=SOFT, to_source=True),
        Edge(source="teacher", target="again", objective=Hint(), source_tap="norm", target_tap="norm",
             bridge=WidthBridge()),
    )  # fmt: skip


def two_momenta(made: Made) -> None:
    made.fit["optimizer"] = DistillationOriented()


NEW = [reads, penalty, set_gate, features, generator, turns, state, gradient, other_data, variant, two_momenta]


def branch(made: Made) -> None:
    made.add(
        Branch(name="exit", of="student", tap=Tap(path="norm")),
        Edge(source="labels", target="exit", objective=CrossEntropy()),
        Edge(source="student", target="exit", objective=SOFT, to_source=True),
    )


def snapshot(made: Made) -> None:
    made.add(Snapshot(name="before", of="student", when=LastStep()), Edge("before", "student", SOFT))


def ensemble(made: Made) -> None:
    peer, crowd = learner(seeded(lambda: quiet(8, 7)), "one"), ("student", "one")
    made.add(
        peer,
        Ensemble(name="all", of=crowd, combine=LearnedGate(), to_members=True),
        Edge(source="labels", target="all", objective=CrossEntropy()),
    )


def average(made: Made) -> None:
    made.fit["average"] = Average(decay=0.9)


def sparse(made: Made) -> None:
    made.student["sparsify"] = StraightThrough(keep=0.5)


def accumulate(made: Made) -> None:
    made.fit["accumulate"] = 2


def half(made: Made) -> None:
    made.fit["precision"] = Precision.BFLOAT16


def cached(made: Made) -> None:
    if not any(getattr(node, "of", None) == "teacher" for node in made.nodes):  # a gradient needs it computed
        made.teacher["cache"] = Cache()


OLD = [branch, snapshot, ensemble, average, sparse, accumulate, half, cached]
PAIRS = [*itertools.combinations(NEW, 2), *itertools.product(NEW, OLD)]


@pytest.mark.parametrize(("one", "two"), PAIRS, ids=[f"{one.__name__}-{two.__name__}" for one, two in PAIRS])
def test_any_two_words_meet(one: Callable[[Made], None], two: Callable[[Made], None], tmp_path: Path) -> None:
    def make() -> Stage:
        made = Made([], [Edge("labels", "student", CrossEntropy()), Edge("teacher", "student", SOFT, weight=0.5)])
        one(made)
        two(made)
        return made.stage()

    ends = check_resume(make, tmp_path, clusters(other=16), stops=(1, 2))
    fresh = {f"student.{key}": value for key, value in perceptron(8, seed=1).state_dict().items()}
    assert any(not torch.equal(value, ends[key]) for key, value in fresh.items() if key in ends)
    assert all(bool(value.isfinite().all()) for value in ends.values())
    drawn = json.loads(json.dumps(draw([make()])))
    assert len(drawn[0]["edges"]) == len(make().graph.edges)
    said = str(draw_graph(drawn[0], title="A graph", name="g"))
    assert all(node.name in said for node in make().graph.nodes)
    assert "None" not in re.sub(r"=None", "", said)


def test_the_picture_says_what_moves_and_when() -> None:
    made = Made([], [Edge("labels", "student", CrossEntropy())])
    generator(made)
    turns(made)
    said = str(draw_graph(json.loads(json.dumps(draw([made.stage()])))[0], title="A graph", name="g"))
    assert "judge teaches made by SoftTargets(" in said
    assert "It moves generator up, student down." in said
    assert "judge reads generator." in said
    assert "made: Variant, moves student, generator" in said
    assert "Steps by turns: student 2, peer 1." in said


GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "own-graph.md"
ROWS = re.findall(r"^\| [^|]+ \| (`.*) \|$", GUIDE.read_text(encoding="utf-8"), flags=re.M)


@pytest.mark.parametrize("row", ROWS)
def test_the_words_of_the_guide_are_written_as_they_are(row: str) -> None:
    known: dict[str, Any] = {**vars(lessen.graph), **vars(lessen.knowledge), "Tap": Tap}
    known |= {"module": nn.Identity(), "examples": clusters().train, "data": clusters(), "nodes": [], "edges": []}
    for code in re.findall(r"`(.+?)`", row):
        whole = code.replace("Edge(...", 'Edge("a", "b", Hint()').replace("Stage(...", 'Stage("s", Graph([], []), 1')
        whole = f"dict({whole})" if whole.startswith("reads=") else whole
        assert eval(whole, known) is not None


def test_the_guide_has_a_row_for_every_word() -> None:
    said = "\n".join(ROWS)
    assert len(ROWS) > 12
    for word in ("From", "Input", "Ensemble", "Variant", "Gradient", "OtherData", "Turns", "gates", "moves", "side="):
        assert word in said, word
