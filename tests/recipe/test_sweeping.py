"""Sweeps: names of settings, a grid that is killed and goes on, samplers, what is refused at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import lessen
from lessen.core.errors import LessenError, RecipeError, RunError, SettingError
from lessen.engine.stopping import Stopped
from lessen.recipe import resume_sweep, settings_of
from lessen.recipe import sweeping as module
from lessen.search import Range, Study, Values

RECIPE = """
network: {build: "zoo:mlp", arguments: {hidden: [8]}}
data: Digits
steps:
  - PruneWeights: {keep: 0.5}
  - Offline:
      knowledge:
        - At: {objective: {SoftTargets: {temperature: 4.0}}, weight: 1.0}
      epochs: 1
      fit: {batch: 256}
deploy: {runtimes: []}
measuring: {repeats: 6, calibration: 32}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def quick(recipe: Path, settings: dict[str, Any], **more: Any) -> Any:
    return lessen.sweep(recipe, settings, run=recipe.parent / "sweep", progress=False, **more)


def figures(made: Any) -> list[dict[str, Any]]:
    """The lines of the table, without what depends on the clock."""
    timed = ("latency", "memory", "time", "throughput", "speedup", "run")
    lines: list[dict[str, Any]] = made.comparison.lines()
    return [{name: line[name] for name in line if not any(word in name for word in timed)} for line in lines]


def test_a_grid_is_one_table_and_each_trial_is_a_run(recipe: Path) -> None:
    made = quick(recipe, {"temperature": [1.0, 4.0], "keep": [0.5]}, seeds=2)
    assert [path.name for path in made.runs] == [
        f"temperature-{t}_keep-0.5_seed-{s}" for t in ("4.0", "1.0") for s in (0, 1)
    ]
    assert [row.settings for row in made.comparison.rows] == [{"temperature": 4.0}, {"temperature": 1.0}]
    assert lessen.load(made.runs[0])
    asked = yaml.safe_load((made.runs[2] / "recipe.yaml").read_text())
    objective = asked["steps"][1]["Offline"]["knowledge"][0]["At"]["objective"]
    assert objective["SoftTargets"]["temperature"] == 1.0
    assert len(made.frame()) == 4
    assert (made.folder / "table.svg").read_text().startswith("<svg")
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("weights.safetensors")}
    again = quick(recipe, {"temperature": [1.0, 4.0], "keep": [0.5]}, seeds=2)
    assert figures(again) == figures(made)
    assert before == {path: path.stat().st_mtime_ns for path in made.folder.rglob("weights.safetensors")}
    with pytest.raises(RunError, match=r"contains another sweep.*seeds"):
        quick(recipe, {"temperature": [1.0, 4.0], "keep": [0.5]}, seeds=3)


def test_stopped_at_any_run_it_ends_with_the_same_table(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"weight": [0.5, 1.0]}
    whole = lessen.sweep(recipe, settings, seeds=2, run=recipe.parent / "whole", progress=False)
    one_run = module._one_run
    for stop in (1, 3):
        calls: list[int] = []

        def stopped(*given: Any, calls: list[int] = calls, stop: int = stop) -> float:
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return one_run(*given)

        monkeypatch.setattr(module, "_one_run", stopped)
        with pytest.raises(KeyboardInterrupt):
            lessen.sweep(recipe, settings, seeds=2, run=recipe.parent / f"stop-{stop}", progress=False)
        monkeypatch.setattr(module, "_one_run", one_run)
        made = resume_sweep(recipe.parent / f"stop-{stop}", progress=False)
        assert figures(made) == figures(whole)
        assert [path.name for path in made.runs] == [path.name for path in whole.runs]


def test_sigterm_ends_the_sweep_and_not_one_run_of_it(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def terminated(made: dict[str, Any], folder: Path, allow_import: bool) -> float:
        begun.append(folder.name)
        raise Stopped("Asked to stop after step 3.")

    monkeypatch.setattr(module, "_one_run", terminated)
    with pytest.raises(Stopped, match="after step 3"):
        quick(recipe, {"temperature": [1.0, 4.0]})
    assert len(begun) == 1
    assert f"lessen resume {recipe.parent / 'sweep'}" in capsys.readouterr().err
    assert not list((recipe.parent / "sweep").glob("table.*"))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"temprature": [1]}, "has no setting 'temprature': did you mean 'temperature'"),
        ({"epoch": [1]}, "did you mean .*epochs"),
        ({"seed": [1]}, "Seeds are not a setting"),
        ({"keep": []}, "has no values"),
        ({"keep": [0.5], "steps.0.keep": [0.2]}, "are the same setting"),
        ({"keep": [2.0]}, "keep=2.0: PruneWeights"),
        ({"objective": ["SoftTargts"]}, "did you mean 'SoftTargets'"),
        ({"keep": "0.1..0.5"}, "A grid needs the values"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(settings: dict[str, Any], says: str, recipe: Path) -> None:
    with pytest.raises(LessenError, match=says):
        quick(recipe, settings)
    assert not list(recipe.parent.glob("sweep/*seed*"))


def test_a_name_that_could_be_two_settings_is_refused(recipe: Path) -> None:
    recipe.write_text(RECIPE + "train:\n  - Supervised: {epochs: 1}\n")
    with pytest.raises(SettingError, match=r"could be any of .*steps\.1\.epochs"):
        quick(recipe, {"epochs": [1, 2]})


def test_an_object_is_a_setting(recipe: Path) -> None:
    made = quick(recipe, {"objective": ["SoftTargets", "LogitMatching"]})
    assert [row.settings["objective"] for row in made.comparison.rows] == ["SoftTargets", "LogitMatching"]


def test_a_run_that_fails_is_named_and_the_others_go_on(recipe: Path) -> None:
    made = quick(recipe, {"tap": ["", "layer9"]})
    assert list(made.failed) == ["tap-layer9_seed-0"]
    assert len(made.runs) == 1
    assert "tap-layer9_seed-0 failed" in str(made)


def test_a_sampler_goes_on_as_it_would_have(tmp_path: Path) -> None:
    space = {"a": Values((1, 2, 3)), "b": Range(1e-3, 1.0, logarithmic=True)}

    def walk(study: Study, count: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(count):
            number, chosen = study.ask()
            study.tell(number, chosen["b"])
            found.append(chosen)
        return found

    for sampler in ("Random", "TPE"):
        whole = walk(Study(tmp_path / f"{sampler}-one", space, sampler=sampler), 14)
        part = walk(Study(tmp_path / f"{sampler}-two", space, sampler=sampler), 6)
        rest = walk(Study(tmp_path / f"{sampler}-two", space, sampler=sampler), 8)
        assert part + rest == whole
        assert len({json.dumps(one) for one in whole}) > 10
    with pytest.raises(SettingError, match="did you mean 'Random'"):
        Study(tmp_path / "no", space, sampler="Randm")


@pytest.mark.parametrize("sampler", ["Grid", "Random", "TPE"])
@pytest.mark.parametrize("values", [(None,), (1.0, None), (None, 1.0), (None, None)])
def test_any_trial_may_fail_the_last_as_well(sampler: str, values: tuple[float | None, ...], tmp_path: Path) -> None:
    space = {"a": Values(tuple(range(len(values))))}
    study = Study(tmp_path / "s", space, sampler=sampler)
    for value in values:
        number, _ = study.ask()
        study.tell(number, value)
    again = Study(tmp_path / "s", space, sampler=sampler)
    assert [number for number, _ in again.told()] == [
        number for number, value in enumerate(values) if value is not None
    ]
    assert again.open() == []


def test_a_trial_that_was_not_told_is_given_again(tmp_path: Path) -> None:
    space = {"a": Values((1, 2, 3)), "b": Values(("x", [1, 2]))}
    one = Study(tmp_path / "s", space)
    number, chosen = one.ask()
    two = Study(tmp_path / "s", space)
    assert two.open() == [(number, chosen)]
    seen = [chosen]
    two.tell(number, 1.0)
    for _ in range(5):
        number, chosen = two.ask()
        seen.append(chosen)
        two.tell(number, 1.0)
    assert len({json.dumps(each) for each in seen}) == two.size == 6
    assert [each for _, each in two.told()] == seen


def test_words_become_settings() -> None:
    assert settings_of(["a=1,2", "b=x", "c=[1, 2],[3]", "d=1..8"]) == {
        "a": [1, 2],
        "b": ["x"],
        "c": [[1, 2], [3]],
        "d": "1..8",
    }
    with pytest.raises(SettingError, match="expected name=value"):
        settings_of(["temperature"])
    with pytest.raises(SettingError, match="given twice"):
        settings_of(["a=1", "a=2"])
    with pytest.raises(RecipeError):
        settings_of(["a=[1"])


def test_runs_are_tracked_and_keep_their_state_where_that_is_asked(recipe: Path) -> None:
    made = quick(recipe, {"temperature": [1.0]}, track=["tensorboard"], keep_state=True, device="cpu")
    (run,) = made.runs
    assert list(run.rglob("events.out.tfevents.*"))
    kept = {path.relative_to(run) for path in run.rglob("*") if path.is_file() and "tfevents" not in path.name}
    plain = lessen.sweep(recipe, {"temperature": [1.0]}, run=recipe.parent / "plain", progress=False)
    assert not list(plain.runs[0].rglob("events.out.tfevents.*"))
    assert {path.relative_to(plain.runs[0]) for path in plain.runs[0].rglob("*") if path.is_file()} < kept
    assert figures(made) == figures(plain)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"track": ["tensorbord"]}, "tensorboard"),
        ({"device": "gpuu"}, "There is no device"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_a_slip_in_how_runs_are_carried_out_is_said_before_anything_starts(
    how: dict[str, Any], says: str, recipe: Path
) -> None:
    with pytest.raises(LessenError, match=says):
        quick(recipe, {"temperature": [1.0]}, **how)
    assert not (recipe.parent / "sweep").exists()


def test_workers_that_are_killed_with_their_parent_leave_no_run_held(recipe: Path) -> None:
    words = ["sweep", str(recipe), "--set", "temperature=1,4", "--seeds", "2", "--workers", "2"]
    folder = recipe.parent / "killed"
    command = [sys.executable, "-m", "lessen", *words, "--run", str(folder)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=os.environ)
    limit = time.monotonic() + 300
    while not list(folder.glob("*/checkpoints/state.json")) and time.monotonic() < limit:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2.0)
    made = resume_sweep(folder, progress=False)
    assert len(made.runs) == 4
    assert not made.failed
