"""A run goes on only as it began, a complete one is left alone, and one that never began can be begun again."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

import lessen
from lessen.core import ArrayExamples, Data
from lessen.core.errors import LessenError, RunError
from lessen.data.views import Shift
from lessen.deploy import Deploy
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import PruneWeights
from lessen.pipeline import Measuring, RunFolder, Targets, walk
from lessen.pipeline.job import Job, identity_of_data
from lessen.schemes import offline, supervised
from lessen.tasks import Unlabelled
from lessen.testing.tasks import clusters, perceptron

Arguments = Callable[..., dict[str, Any]]
DATA = clusters()


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder, by what is in it and when it was changed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(folder))] = f"{digest} {path.stat().st_mtime_ns}"
    return found


@pytest.fixture
def stopped(job: Arguments, stop_at: Any, tmp_path: Path) -> Path:
    """A run that was stopped after its first step."""
    error = stop_at("gather", 2)
    with pytest.raises(error):
        lessen.compress(run=tmp_path / "run", **job())
    assert RunFolder(tmp_path / "run").open().completed == 1
    return tmp_path / "run"


# What may not differ. One entry for each argument and each field of the data; the law below asks for all of them.


def replaced(split: str, change: Callable[[ArrayExamples], ArrayExamples]) -> Data:
    data = clusters()
    return dataclasses.replace(data, **{split: change(getattr(data, split))})


def one_input(examples: ArrayExamples) -> ArrayExamples:
    assert isinstance(examples.inputs, torch.Tensor)
    inputs = examples.inputs.clone()
    inputs[-1, -1] += 1e-3
    return ArrayExamples(inputs, examples.labels)


def one_label(examples: ArrayExamples) -> ArrayExamples:
    assert examples.labels is not None
    labels = examples.labels.clone()
    labels[-2] = (labels[-2] + 1) % 4
    return ArrayExamples(examples.inputs, labels)


def one_less(examples: ArrayExamples) -> ArrayExamples:
    assert isinstance(examples.inputs, torch.Tensor)
    assert examples.labels is not None
    return ArrayExamples(examples.inputs[:-1], examples.labels[:-1])


def other_dropout() -> nn.Module:
    network = perceptron(8, seed=0)
    network.dropout.p = 0.3  # type: ignore[union-attr,assignment]
    return network


STEPS = (PruneWeights(keep=0.5), offline(SoftTargets(temperature=4.0), epochs=1, fit=Fit(batch=16)))
ARGUMENTS: dict[str, list[Any]] = {
    "teacher": [perceptron(9, seed=0), other_dropout()],
    "student": [perceptron(8, seed=0)],
    "steps": [STEPS[:1], (*STEPS, PruneWeights(keep=0.9)), (STEPS[0], offline(epochs=3)), STEPS[::-1]],
    "train": [[supervised(epochs=1)]],
    "targets": [Targets(size=10**9)],
    "deploy": [Deploy(runtimes=(), batch_sizes=(2,)), Deploy(runtimes=(), rounds=7)],
    "measuring": [Measuring(repeats=7, calibration=32), Measuring(repeats=6, calibration=33)],
    "seed": [7],
}
PARTS: dict[str, list[Data]] = {
    **{
        name: [replaced(name, one) for one in (one_input, one_label, one_less)]
        for name in ("train", "validation", "test")
    },
    "classes": [dataclasses.replace(DATA, classes=("a", "b", "c", "e")), dataclasses.replace(DATA, classes=None)],
    "augment": [dataclasses.replace(DATA, augment=Shift())],
    "name": [dataclasses.replace(DATA, name="others")],
    "task": [dataclasses.replace(DATA, task=Unlabelled())],
}
CHANGES = {f"{name} {i}": {name: value} for name, values in ARGUMENTS.items() for i, value in enumerate(values)}
CHANGES |= {f"data.{name} {i}": {"data": value} for name, values in PARTS.items() for i, value in enumerate(values)}
CHANGES |= {"data.task as an argument": {"task": "none"}, "data.task by a metric": {"metric": (len, "max")}}
# A network with one tensor as its output has no name for it, which is an error of its own.
NAMELESS = {"output"}


def test_every_argument_and_every_field_of_the_data_is_among_the_changes() -> None:
    arguments = {field.name for field in dataclasses.fields(Job)} - {
        "progress",
        "device",
        "keep_state",
        "track",
        "on_step",
    }
    assert arguments - NAMELESS == {*ARGUMENTS, "data", "task", "metric"}
    assert {field.name for field in dataclasses.fields(Data)} - {"about"} - NAMELESS == PARTS.keys()


def test_a_run_goes_on_only_as_it_began(stopped: Path, job: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(stopped)
    for name, change in CHANGES.items():
        with pytest.raises(RunError, match="was started with other settings") as found:
            lessen.resume(stopped, **job(**change))
        where = name.split(" ")[0]
        assert f"now: {where}" in str(found.value) or f"; {where}" in str(found.value), str(found.value)
        assert len(str(found.value)) < 1500
        assert contents(stopped) == before, name
    # The twin: all as it was, in other objects. Weights come from the run.
    made = lessen.resume(stopped, **job(teacher=perceptron(8, seed=3), data=clusters()))
    whole = lessen.compress(run=stopped.parent / "whole", **job())
    assert all(torch.equal(value, made.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


@pytest.mark.parametrize("part", ["python", "torch", "lessen"])
def test_another_version_does_not_go_on(
    part: str, stopped: Path, job: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lessen.core.machine import versions

    monkeypatch.setattr("lessen.pipeline.job.versions", lambda: {**versions(), part: "0.1.2"})
    with pytest.raises(RunError, match=rf"versions\.{part}: .* and .0\.1"):
        lessen.resume(stopped, **job())


def test_an_own_object_among_the_settings_is_told_by_what_it_is_set_with(job: Arguments) -> None:
    """In another process its address would differ; what it holds does not."""

    class Own(nn.Module):
        card = SoftTargets.card

        def __init__(self, strength: float) -> None:
            super().__init__()
            self.strength = strength

        def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
            return (student - teacher).square().sum(1) * self.strength

    def told(strength: float) -> Any:
        return Job(**job(steps=(offline(Own(strength)),))).identity()

    assert told(1.0) == told(1.0)
    assert told(1.0) != told(2.0)


def test_data_of_equal_size_are_told_apart_wherever_they_differ() -> None:
    told = [identity_of_data(value) for values in PARTS.values() for value in values]
    assert all(one != other for i, one in enumerate(told) for other in told[:i])
    assert identity_of_data(clusters()) == identity_of_data(clusters())


# Complete runs


def test_a_complete_run_is_read_and_nothing_in_it_is_changed(job: Arguments, tmp_path: Path) -> None:
    made = lessen.compress(run=tmp_path / "run", **job())
    before = contents(tmp_path / "run")
    again = lessen.resume(tmp_path / "run", **job(teacher=perceptron(8, seed=5)))
    assert contents(tmp_path / "run") == before
    assert again.records == made.records
    assert (again.run, again.file, again.report) == (made.run, made.file, made.report)
    for one, other in ((made.model, again.model), (made.teacher, again.teacher)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
        assert not other.training
    with pytest.raises(RunError, match="seed: 0 and 1"):
        lessen.resume(tmp_path / "run", **job(seed=1))


def test_records_are_whole_while_a_run_is_finished(job: Arguments, stop_at: Any, tmp_path: Path) -> None:
    """Stopped in the report and resumed: at no moment is a record of a step missing."""
    error = stop_at("write_report")
    with pytest.raises(error):
        lessen.compress(run=tmp_path / "run", **job())
    folder = RunFolder(tmp_path / "run")
    figures = len(folder.records.read_text().splitlines())
    assert not folder.open().finished
    made = lessen.resume(tmp_path / "run", **job())
    assert folder.open().finished
    assert len(made.records) == len(folder.records.read_text().splitlines()) == figures


# Runs that never began


@pytest.mark.parametrize("at", ["locked", "given", "recipe", "state"])
def test_a_run_that_was_stopped_before_it_began_is_begun_again(
    at: str, job: Arguments, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(tmp_path / "run")
    names = {"locked": "write_tensors", "given": "write_text", "recipe": "write_sealed"}

    def stopped(*given: Any, **more: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if at == "state":
            patch.setattr(walk.Walk, "to_the_end", stopped)
        else:
            patch.setattr(f"lessen.pipeline.folder.{names[at]}", stopped)
        with pytest.raises(KeyboardInterrupt):
            lessen.compress(run=folder.path, **job())
    (folder.checkpoints / ".state.json.abcd_123.part").write_text("half")
    if at == "state":
        lessen.resume(folder.path, **job())
    else:
        with pytest.raises(RunError, match=r"stopped before its first step.*Start it again"):
            lessen.resume(folder.path, **job())
        lessen.compress(run=folder.path, **job())
    assert folder.open().finished
    assert [path.name for path in folder.path.rglob(".*")] == [".lock"]


def test_a_beginning_is_not_begun_again_over_what_is_not_ours(job: Arguments, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.step(0).mkdir(parents=True)
    for strange in (folder.path / "notes.txt", folder.checkpoints / "step-1", folder.step(0) / "network.safetensors"):
        strange.write_text("precious") if strange.suffix else strange.mkdir()
        with pytest.raises(RunError, match=rf"not empty: it contains .*{strange.name}"):
            lessen.compress(run=folder.path, **job())
        assert strange.exists()
        strange.unlink() if strange.suffix else strange.rmdir()
    lessen.compress(run=folder.path, **job(steps=[]))


def test_what_fails_before_the_run_leaves_nothing(job: Arguments, tmp_path: Path) -> None:
    with pytest.raises(LessenError):
        lessen.compress(run=tmp_path / "runs" / "one", **job(steps=[PruneWeights(where="nowhere")]))
    assert list(tmp_path.iterdir()) == []


# By the folder alone

RECIPE = {
    "network": {"build": "zoo:mlp", "arguments": {"inputs": 64, "hidden": [8], "classes": 10}},
    "data": {"Arrays": {"file": "data.npz"}},
    "train": [{"Supervised": {"epochs": 1, "fit": {"batch": 16}}}],
    "steps": [{"PruneWeights": {"keep": 0.5}}],
    "measuring": {"repeats": 6, "calibration": 32},
    "deploy": {"runtimes": []},
}


@pytest.fixture
def by_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: Any) -> Path:
    """A run of a recipe, stopped behind the training of the teacher; data and recipe in the current folder."""
    import numpy as np

    from lessen.recipe import as_data, read_recipe

    monkeypatch.chdir(tmp_path)
    drawn = np.random.default_rng(0)
    np.savez("data.npz", x=drawn.normal(size=(60, 1, 8, 8)).astype("float32"), y=np.arange(60) % 10)
    Path("mine.yaml").write_text(yaml.safe_dump(RECIPE))
    asked = read_recipe("mine.yaml")
    with monkeypatch.context():
        error = stop_at("gather", 2)
        with pytest.raises(error):
            lessen.compress(**asked.arguments(), run="run", asked=as_data(asked), progress=False)
    return tmp_path / "run"


EDITS: dict[str, Any] = {
    "seed": 7,
    "train": [],
    "network": {"build": "zoo:mlp", "arguments": {"inputs": 64, "hidden": [9], "classes": 10}, "weights": None},
    "measuring": {"batch_sizes": None, "threads": None, "repeats": 8, "calibration": 32},
    "steps": [{"PruneWeights": {"keep": 0.4}}],
    "deploy": {"runtimes": [], "rounds": 50},
    "targets": {"size": 3},
}


def test_a_recipe_that_was_edited_does_not_go_on(by_recipe: Path) -> None:
    recipe = by_recipe / "recipe.yaml"
    kept = recipe.read_text()
    for name, value in EDITS.items():
        recipe.write_text(yaml.safe_dump({**yaml.safe_load(kept), name: value}))
        with pytest.raises(RunError, match=rf"recipe\.yaml was edited.*{name}"):
            lessen.resume(by_recipe, progress=False)
    recipe.unlink()
    made = lessen.resume(by_recipe, progress=False)
    assert recipe.read_text() == kept
    assert made.run == by_recipe


def test_a_data_file_that_was_changed_does_not_go_on(by_recipe: Path) -> None:
    import numpy as np

    held = dict(np.load("data.npz"))
    held["x"][0, 0, 3, 3] += 1.0
    np.savez("data.npz", **held)
    with pytest.raises(RunError, match=r"data\.(train|validation|test)\.digest"):
        lessen.resume(by_recipe, progress=False)
