"""Resume goes on with the same run in another process, and refuses one that differs in any single field."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from lessen.core import ArrayExamples, Data, settings
from lessen.core.errors import RunError
from lessen.core.identity import identify
from lessen.engine import Course
from lessen.graph import (
    SGD,
    AdamW,
    Average,
    Branch,
    Cache,
    Constant,
    Correct,
    Edge,
    Ensemble,
    Fit,
    From,
    Graph,
    Labels,
    LastStep,
    LinearHead,
    Network,
    OnPolicy,
    Precision,
    SmallestLoss,
    Snapshot,
    Stage,
    StraightThrough,
    Turns,
    Weighted,
    Window,
)
from lessen.knowledge import CrossEntropy, SoftTargets, WidthBridge
from lessen.recipe.catalogue import catalogue
from lessen.surgery.taps import Tap
from lessen.tasks import Unlabelled
from lessen.testing.tasks import clusters, perceptron


@settings
class Fixed:
    """A view."""

    draws: int = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return inputs


class Kd(nn.Module):
    """A loss of somebody who uses the library: a module with a plain attribute."""

    def __init__(self, t: float) -> None:
        super().__init__()
        self.t = t

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return ((student - teacher) / self.t).square().mean(1)


def scaled(factor: float) -> Any:
    return lambda student, teacher: ((student - teacher) * factor).square().mean(1)


def combined(losses: Any, parameters: Any) -> Tensor:
    return 2 * sum(losses.values())


SEEDS = itertools.count(10)
"""The weights of what learns come from the checkpoint: those that are given may be others each time."""


def make_stage(**changes: Any) -> Stage:
    """Every kind of node, and an edge with each of its words; `changes` are those of one of its parts, by name."""

    def part(name: str, kind: Any, /, **given: Any) -> Any:
        return kind(**{**given, **changes.get(name, {})})

    nodes = [
        part("labels", Labels),
        part("network", Network, name="teacher", module=perceptron(8, seed=2), learns=False),
        Network(name="student", module=perceptron(8, seed=next(SEEDS)), learns=True),
        part("snapshot", Snapshot, name="past", of="student"),
        part("branch", Branch, name="exit", of="student", tap=Tap(path="layer1")),
        part("ensemble", Ensemble, name="crowd", of=["teacher", "past"]),
    ]
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(source="labels", target="exit", objective=CrossEntropy()),
        Edge(source="past", target="student", objective=SoftTargets()),
        Edge(source="crowd", target="student", objective=scaled(1.0)),
        part("edge", Edge, source="teacher", target="student", objective=Kd(4.0)),
    ]
    graph = part("graph", Graph, nodes=nodes, edges=edges)
    return part("stage", Stage, name="all", graph=graph, steps=2, fit=part("fit", Fit, batch=8))


CHANGES: dict[str, tuple[type, dict[str, Any]]] = {
    "labels": (Labels, {"name": "answers", "of": "unlabelled"}),
    "network": (
        Network,
        {
            "name": "master",
            "module": perceptron(8, seed=3),
            "learns": True,
            "view": Fixed(),
            "optimizer": SGD(),
            "schedule": Constant(),
            "combine": combined,
            "cache": Cache(),
            "sparsify": StraightThrough(keep=0.5),
            "reads": From("student"),
        },
    ),
    "snapshot": (Snapshot, {"name": "before", "of": "teacher", "when": LastStep(), "view": Fixed()}),
    "branch": (
        Branch,
        {
            "name": "out",
            "of": "teacher",
            "tap": Tap(path="layer2"),
            "head": LinearHead(hidden=3),
            "optimizer": AdamW(),
            "combine": combined,
        },
    ),
    "ensemble": (
        Ensemble,
        {"name": "all", "of": ["past", "teacher"], "combine": Weighted(weights=(1, 2)), "to_members": True},
    ),
    "edge": (
        Edge,
        {
            "source": "past",
            "target": "exit",
            "objective": Kd(1.0),
            "source_tap": "layer1",
            "target_tap": "layer1",
            "bridge": WidthBridge(),
            "weight": 2.0,
            "schedule": Window(end=0.5),
            "gate": Correct(),
            "to_source": True,
            "moves": {"student": -1},
        },
    ),
    "graph": (Graph, {"nodes": [], "edges": [], "gates": {"one": SmallestLoss()}}),
    "stage": (
        Stage,
        {
            "name": "other",
            "graph": None,
            "epochs": 3,
            "steps": 3,
            "fit": Fit(batch=4),
            "turns": Turns(of=(("student", 1),)),
            "data": clusters(train=40),
        },
    ),
    "fit": (
        Fit,
        {
            "batch": 4,
            "accumulate": 2,
            "optimizer": SGD(rate=0.1),
            "schedule": Constant(),
            "clip": 0.5,
            "precision": Precision.BFLOAT16,
            "channels_last": True,
            "validate_every": 2,
            "validate_steps": 2,
            "keep_best": False,
            "average": Average(),
            "keep_checkpoints": 2,
            "restarts": 2,
            "patience": 2,
            "checkpoint_steps": 3,
            "sparsify": StraightThrough(keep=0.5),
            "sync_batchnorm": True,
        },
    ),
}
"""Another value for every field of everything a stage is made of."""


def go(stage: Stage, folder: Path, data: Data | None = None, *, seed: int = 0, steps: int = 1) -> Course:
    course = Course([stage], data or clusters(), folder=folder, device="cpu", seed=seed, resume=True)
    walked = course.steps()
    for _ in range(steps):
        next(walked)
    walked.close()
    return course


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, with a checkpoint after it."""
    folder = tmp_path_factory.mktemp("begun")
    stage = make_stage(fit={"checkpoint_steps": 1})
    go(stage, folder, steps=2)
    return folder


def resume(folder: Path, data: Data | None = None, *, seed: int = 0, **changes: Any) -> None:
    """Only looks whether it would be resumed, which is decided before the first word of a stage is checked."""
    fit = {"checkpoint_steps": 1, **changes.pop("fit", {})}
    Course([make_stage(fit=fit, **changes)], data or clusters(), folder=folder, device="cpu", seed=seed, resume=True)


def test_nothing_changed_goes_on(begun: Path) -> None:
    resume(begun)


@pytest.mark.parametrize("part", CHANGES)
def test_every_field_has_another_value(part: str) -> None:
    kind, values = CHANGES[part]
    assert {field.name for field in dataclasses.fields(kind)} == set(values)


@pytest.mark.parametrize(("part", "field"), [(part, field) for part, (_, made) in CHANGES.items() for field in made])
def test_a_field_that_changed_is_another_run(
    part: str, field: str, begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys.modules[Course.__module__], "check", lambda stage: None
    )  # what makes no sense is another run as well
    value = CHANGES[part][1][field]
    if (part, field) == ("stage", "graph"):
        graph = make_stage().graph
        value = dataclasses.replace(graph, nodes=[*graph.nodes, OnPolicy(of="student")])
    with pytest.raises(RunError, match=r"belongs to a run with other .* \(before and now: stages\.0\."):
        resume(begun, **{part: {field: value}})


def test_seed_and_data_are_part_of_the_run(begun: Path) -> None:
    data = clusters()
    with pytest.raises(RunError, match="seed: 0 and 1"):
        resume(begun, seed=1)
    assert isinstance(data.train, ArrayExamples)
    assert isinstance(data.train.inputs, Tensor)
    inputs = data.train.inputs.clone()
    inputs[-1, 0] += 1e-4
    changes: dict[str, Any] = {
        "train": ArrayExamples(inputs, data.train.labels),
        "validation": data.test,
        "test": data.validation,
        "classes": tuple("wxyz"),
        "augment": Fixed(),
        "name": "other",
        "task": Unlabelled(),
        "output": "logits",
    }
    assert {field.name for field in dataclasses.fields(Data)} == {*changes, "about"}  # `about` is words for a report
    for field, value in changes.items():
        with pytest.raises(RunError, match=rf"before and now: data\.{field}"):
            resume(begun, dataclasses.replace(data, **{field: value}))


@pytest.mark.parametrize(
    "objective", [scaled(2.0), scaled(1.0).__call__, Kd(4.0).forward, nn.MSELoss(reduction="none")]
)
def test_own_losses_are_told_by_code_and_values(objective: Any) -> None:
    assert identify(objective) == identify(objective)
    assert identify(objective) != identify(scaled(1.0))
    assert " at 0x" not in json.dumps(identify(objective))


def test_a_network_that_is_frozen_is_told_by_its_weights_and_one_that_learns_is_not(begun: Path) -> None:
    resume(begun, network={"module": perceptron(8, seed=2)})
    with pytest.raises(RunError, match="weights"):
        resume(begun, network={"module": perceptron(8, seed=4)})


def test_every_setting_of_every_class_counts() -> None:
    """Planted past the checks, so that no class needs a table of what else its fields may be."""
    for kind in catalogue().values():
        made = object.__new__(kind)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            object.__setattr__(made, field.name, None)
        before = identify(made)
        for field in dataclasses.fields(kind):  # type: ignore[arg-type]
            object.__setattr__(made, field.name, "something else")
            assert identify(made) != before, (kind, field.name)
            object.__setattr__(made, field.name, None)
        assert identify(made) == before


class Asked(nn.Module):
    """A teacher that asks somebody else, whose answers no attribute tells."""

    answer = 1.0
    noise = False

    def forward(self, x: Tensor) -> Tensor:
        drawn = float(next(SEEDS)) if Asked.noise else 0.0
        return x[:, :4] * Asked.answer + drawn


def test_what_no_setting_tells_is_found_by_what_the_edges_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stage() -> Stage:
        return make_stage(network={"module": Asked()}, fit={"checkpoint_steps": 1}, stage={"steps": 4})

    go(stage(), tmp_path, steps=2)
    go(stage(), tmp_path, steps=1)
    with monkeypatch.context() as patch:
        patch.setattr(Asked, "answer", -1.0)
        with pytest.raises(RunError, match=r"cannot be resumed.*crowd->student.*has changed"):
            go(stage(), tmp_path)
    monkeypatch.setattr(Asked, "noise", True)
    go(stage(), tmp_path)
