"""Every scheme with every word of a graph: what a scheme makes can be extended, trained, and resumed bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lessen.core import ArrayExamples
from lessen.engine import Course, run
from lessen.graph import (
    ActivationPenalty,
    BatchMoments,
    DistillationOriented,
    Edge,
    Fit,
    From,
    Gradient,
    InputNoise,
    LargestOutput,
    OtherData,
    SoftmaxOfLosses,
    Stage,
    Through,
    Turns,
    Variant,
)
from lessen.knowledge import Hint, SoftTargets
from lessen.schemes import (
    AssistantChain,
    Mutual,
    Offline,
    Scheme,
    SelfBranches,
    SelfSnapshot,
    SeveralTeachers,
    Staged,
    Supervised,
    at,
)
from lessen.surgery.taps import Tap
from lessen.testing.schemes import SchemeLaws, same, states
from lessen.testing.tasks import clusters

SHORT: dict[str, Any] = {"epochs": 1, "fit": Fit(batch=20, checkpoint_steps=1)}
SCHEMES: list[Scheme] = [
    Supervised(**SHORT),
    Offline(knowledge=(SoftTargets(temperature=2.0), at("layer2", Hint(), weight=0.5)), **SHORT),
    Mutual(**SHORT),
    SelfBranches(taps=("layer1",), **SHORT),
    SelfSnapshot(**SHORT),
    AssistantChain(**SHORT),
    SeveralTeachers(**SHORT),
    Staged(hints=(at("layer2", Hint()),), hint_epochs=1, **SHORT),
]


class Tried(SchemeLaws):
    """The cast of the laws."""

    __test__ = False
    schemes = ()


def learners(stage: Stage) -> list[str]:
    return [node.name for node in stage.graph.nodes if node.network is not None and node.can_learn()]


def add(stage: Stage, *parts: Any) -> Stage:
    nodes = [part for part in parts if not isinstance(part, Edge)]
    edges = [part for part in parts if isinstance(part, Edge)]
    graph = stage.graph
    return replace(stage, graph=replace(graph, nodes=[*graph.nodes, *nodes], edges=[*graph.edges, *edges]))


def penalty(stage: Stage) -> Stage:
    return add(stage, Edge(target=learners(stage)[0], objective=ActivationPenalty(), target_tap="layer2"))


def moments(stage: Stage) -> Stage:
    tap = Tap(path="norm", side="state")
    return add(stage, Edge(target=learners(stage)[0], objective=BatchMoments(), target_tap=tap))


def set_gate(stage: Stage) -> Stage:
    edges = [replace(e, gate="best") if isinstance(e.gate, Through) else e for e in stage.graph.edges]
    return replace(stage, graph=replace(stage.graph, edges=edges, gates={"best": SoftmaxOfLosses()}))


def reads(stage: Stage) -> Stage:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        head = nn.Linear(6, 4)
    student = learners(stage)[0]
    auxiliary = replace(
        next(node for node in stage.graph.nodes if node.name == student),  # type: ignore[type-var]
        name="auxiliary",
        module=head,
        reads=From(student, "layer2", to_node=True),
        view=None,
    )
    return add(stage, auxiliary, Edge(source=student, target="auxiliary", objective=SoftTargets()))


def variant(stage: Stage) -> Stage:
    student = learners(stage)[0]
    again = Variant("again", of=student, way=InputNoise())
    return add(stage, again, Edge(source=student, target="again", objective=SoftTargets()))


def gradient(stage: Stage) -> Stage:
    slope = Gradient("slope", of=learners(stage)[0], tap=Tap(side="input"), loss=LargestOutput())
    return add(stage, slope, Edge(target="slope", objective=ActivationPenalty(), weight=0.1))


def other_data(stage: Stage) -> Stage:
    x = torch.randn(40, 8, generator=torch.Generator().manual_seed(3))
    read, of = From("more"), learners(stage)[0]
    return add(
        stage,
        OtherData("more", ArrayExamples(x)),
        Variant("weak", of=of, reads=read),
        Variant("strong", of=of, reads=read, way=InputNoise()),
        Edge(source="weak", target="strong", objective=SoftTargets()),
    )


def own_data(stage: Stage) -> Stage:
    return replace(stage, data=clusters(train=60))


def two_momenta(stage: Stage) -> Stage:
    return replace(stage, fit=replace(stage.fit, optimizer=DistillationOriented()))


def turns(stage: Stage) -> Stage:
    roots = dict.fromkeys(learners(stage))
    return replace(stage, turns=Turns(of=tuple((name, 1) for name in roots)))


WORDS = [
    penalty, moments, set_gate, reads, variant, gradient, other_data, own_data, two_momenta, turns
]  # fmt: skip
Word = Callable[[Stage], Stage]


def course(scheme: Scheme, word: Word, cast: Any, folder: Path) -> Course:
    stages = [word(stage) for stage in scheme.stages(cast)]
    return Course(stages, clusters(), folder=folder, device="cpu", seed=3, resume=True)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: word.__name__)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_a_scheme_with_a_word_is_resumed_bit_for_bit(scheme: Scheme, word: Word, tmp_path: Path) -> None:
    whole = Tried().cast()
    before = states(whole)
    for _ in course(scheme, word, whole, tmp_path / "whole").steps():
        pass
    assert not same(states(whole), before)
    for stop in (1, 2, 10**6):
        parts = Tried().cast()
        steps = course(scheme, word, parts, tmp_path / "parts").steps()
        for _ in range(stop):
            if next(steps, None) is None:
                break
        steps.close()
    assert same(states(parts), states(whole))


def down(stage: Stage) -> Stage:
    """Every edge says what it does anyway: the loss goes down at its target."""
    kinds = {node.name: node for node in stage.graph.nodes}
    edges = [
        replace(edge, moves={edge.target: 1}) if edge.target in learners(stage) and not edge.to_source else edge
        for edge in stage.graph.edges
    ]
    assert any(edge.moves for edge in edges) or not any(kinds[edge.target].network for edge in edges)
    return replace(stage, graph=replace(stage.graph, edges=edges))


def one_turn(stage: Stage) -> Stage:
    return replace(stage, turns=Turns(of=((tuple(learners(stage)), 1),)))


@pytest.mark.parametrize(("word", "bound"), [(down, 1e-5), (one_turn, 0.0)], ids=["down", "one_turn"])
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_a_word_that_says_what_is_done_anyway_changes_nothing(scheme: Scheme, word: Word, bound: float) -> None:
    ends = []
    for changed in (False, True):
        cast = Tried().cast()
        stages = [word(stage) if changed else stage for stage in scheme.stages(cast)]
        run(stages, clusters(), device="cpu", progress=False)
        ends.append(states(cast))
    for name, value in ends[0].items():
        assert float((value.double() - ends[1][name].double()).abs().max()) <= bound, name
