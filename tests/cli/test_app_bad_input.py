"""Bad input through the real command line: one screen on stderr, exit code 2, no traceback, nothing written over."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from lessen.zoo import mlp, residual

SCREEN = 24
"""Lines of a terminal."""

GOOD: dict[str, Any] = {
    "network": {"build": "zoo:residual", "arguments": {"width": 4, "depth": 8}},
    "data": {"Digits": {}},
    "steps": [
        {"PruneChannels": {"keep": 0.5}},
        {"Offline": {"knowledge": [{"At": {"objective": "SoftTargets"}}], "epochs": 1}},
    ],
}


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def recipe(folder: Path, **changes: Any) -> str:
    """A recipe that would run, but for the changes."""
    (folder / "bad.yaml").write_text(yaml.safe_dump({**GOOD, **changes}, sort_keys=False))
    return "bad.yaml"


def fails(said: Any, *parts: str) -> None:
    assert said.code == 2, said
    assert said.out == ""
    assert "Traceback" not in said.err
    assert said.err.startswith("lessen: ")
    assert len(said.err.splitlines()) <= SCREEN
    assert sum(len(line) // 80 + 1 for line in said.err.splitlines()) <= SCREEN
    for part in parts:
        assert part in said.err


def at(**settings: Any) -> list[Any]:
    return [{"Offline": {"knowledge": [{"At": settings}], "epochs": 1}}]


def arguments(**changes: Any) -> dict[str, Any]:
    return {"build": "zoo:residual", "arguments": {"width": 4, "depth": 8, **changes}}


CASES: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown network": ({"network": {"build": "zoo:residul"}}, ("'residul'", "did you mean 'residual'")),
    "unknown source": ({"network": {"build": "timmm:resnet18"}}, ("'timmm'", "did you mean 'timm'")),
    "unknown argument": ({"network": arguments(widht=3)}, ("'widht'", "did you mean 'width'")),
    "no weights": ({"network": {**arguments(), "weights": "w.safetensors"}}, ("w.safetensors", "There is no file")),
    "classes unlike the labels": ({"network": arguments(classes=7)}, ("(2, 7)", "digits", "10 classes")),
    "channels unlike the images": ({"network": arguments(channels=3)}, ("(2, 1, 8, 8)", "channels")),
    "student of other classes": ({"student": arguments(classes=7)}, ("student", "(2, 7)", "10 classes")),
    "a tap that does not exist": ({"steps": at(tap="layr3", objective="AttentionTransfer")}, ("layr3", "layer3")),
    "shapes no bridge fits": (
        {"steps": at(tap=["head", "layer3"], objective="Hint", bridge="ChannelBridge")},
        ("ChannelBridge", "(4, 10)"),
    ),
    "a target no pruning can reach": (
        {"steps": [{"PruneChannels": {"parameters": 1e-5}}, GOOD["steps"][1]]},
        ("step 1 (PruneChannels)", "cannot be pruned to 1e-05 of its parameters", "Ask for"),
    ),
    "no such data": ({"data": {"ImageFolder": {"folder": "nowhere"}}}, ("nowhere",)),
    "an unknown class": (
        {"steps": [{"PruneChanels": {}}]},
        ("line 9", "'PruneChanels'", "did you mean 'PruneChannels'"),
    ),
    "a class that cannot be used there": ({"steps": ["SoftTargets"]}, ("line 9", "SoftTargets cannot be used here")),
    "a misspelt key": ({"sede": 3}, ("bad.yaml, line 16", "'sede'", "did you mean 'seed'")),
    "a misspelt key deep inside": (
        {"steps": at(objective={"SoftTargets": {"temprature": 2.0}})},
        ("bad.yaml, line 14", "SoftTargets has no setting 'temprature'", "did you mean 'temperature'"),
    ),
    "a value out of range": (
        {"steps": [{"PruneChannels": {"keep": 3}}]},
        ("bad.yaml, line 10", "PruneChannels: keep: got 3"),
    ),
    "nothing to do": ({"steps": None}, ("steps",)),
}


@pytest.mark.parametrize("case", CASES)
def test_bad_recipes(case: str, here: Path, lessen: Any) -> None:
    changes, parts = CASES[case]
    name = recipe(here, **changes)
    before = tree(here)
    fails(lessen("run", name), *parts)
    assert tree(here) == before


def test_the_good_recipe_is_good(here: Path, lessen: Any) -> None:
    """The twin of all of these: unchanged, the recipe passes every check."""
    from lessen.pipeline import preflight
    from lessen.pipeline.job import Job
    from lessen.recipe import read_recipe

    preflight(Job.of(**read_recipe(recipe(here)).arguments()))


def test_weights_of_another_architecture(here: Path, lessen: Any) -> None:
    save_file(mlp().state_dict(), here / "w.safetensors")
    before = tree(here) | {"bad.yaml": b""}
    said = lessen("run", recipe(here, network={**arguments(), "weights": "w.safetensors"}))
    fails(said, "missing (stem.weight", "unexpected (", "ResidualNetwork")
    assert tree(here).keys() == before.keys()


def test_weights_that_are_a_pickle_are_not_executed(here: Path, lessen: Any) -> None:
    class Planted:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(here / "executed"),))

    torch.save({"state_dict": residual(width=4, depth=8).state_dict(), "hook": Planted()}, here / "w.pt")
    said = lessen("run", recipe(here, network={**arguments(), "weights": "w.pt"}))
    fails(said, "w.pt", "safetensors.torch.save_file")
    assert not (here / "executed").exists()
    torch.load(here / "w.pt", weights_only=False)  # the twin: planted code that would have run
    assert (here / "executed").is_dir()


@pytest.mark.parametrize(
    ("kind", "part"), [("empty", "has no examples"), ("NaN", "NaN or infinity"), ("labels", "2 classes")]
)
def test_bad_data(kind: str, part: str, here: Path, lessen: Any) -> None:
    x, y = np.random.default_rng(0).normal(size=(64, 1, 8, 8)), np.arange(64) % 10
    held = {"x_train": x, "y_train": y, "x_test": x.copy(), "y_test": y}
    if kind == "empty":
        held |= {"x_test": x[:0], "y_test": y[:0]}
    elif kind == "NaN":
        held["x_test"][40, 0, 3, 3] = np.nan
    else:
        held["y_train"] = y % 2
    np.savez(here / "d.npz", **held)
    fails(lessen("run", recipe(here, data={"Arrays": {"file": "d.npz"}})), part)
    assert not (here / "runs").exists()


@pytest.mark.parametrize("command", ["resume", "load", "report"])
def test_a_folder_that_is_no_run(command: str, here: Path, lessen: Any) -> None:
    fails(lessen(command, "nowhere"), "nowhere", "no folder")
    (here / "holiday").mkdir()
    (here / "holiday" / "photo.txt").write_text("sun")
    before = tree(here)
    fails(lessen(command, "holiday"), "holiday is not the folder of a run")
    assert tree(here) == before


def test_a_run_is_never_written_over(here: Path, lessen: Any) -> None:
    name = recipe(here)
    (here / "runs" / "bad").mkdir(parents=True)
    (here / "runs" / "bad" / "mine.txt").write_text("precious")
    fails(lessen("run", name), "runs/bad already exists")
    state = here / "runs" / "bad" / "checkpoints" / "state.json"
    state.parent.mkdir()
    state.write_text('{"kind": "lessen run, version 1", "completed": 1, "finished": false}')
    before = tree(here)
    fails(lessen("run", name), "lessen resume runs/bad")
    assert tree(here) == before


def test_a_missing_extra(here: Path, lessen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    fails(lessen("run", recipe(here, network={"build": "timm:resnet18"})), "timm is not installed", "lessen[zoo]")
    fails(lessen("measure", "timm:resnet18"), "lessen[zoo]")


def test_recipes_that_cannot_be_read(here: Path, lessen: Any) -> None:
    fails(lessen("run", "nowhere.yaml"), "nowhere.yaml")
    (here / "b.yaml").write_bytes(b"\xff\xfe\x00")
    fails(lessen("run", "b.yaml"), "b.yaml")
    (here / "c.yaml").write_text("")
    fails(lessen("run", "c.yaml"), "c.yaml is empty")


def test_measuring_what_is_not_there(here: Path, lessen: Any) -> None:
    fails(lessen("measure", "model.onnx"), "model.onnx")
    fails(lessen("measure", "zoo:residual", "--set", "width"), "name=value")
    fails(lessen("measure", "zoo:residual", "--data", "digit"), "did you mean 'digits'")
    fails(lessen("measure", "zoo:residual", "--data", "digits", "--set", "classes=3"), "10 classes")
    fails(lessen("methods", "SoftTarget"), "did you mean 'SoftTargets'")
    fails(lessen("methods", "--find", "zzzz"), "zzzz")


def command(here: Path, *words: str, **environment: str) -> Any:
    return subprocess.run(
        [Path(sys.executable).with_name("lessen"), *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_a_real_process_leaves_with_2_and_one_screen(here: Path) -> None:
    done = command(here, "run", recipe(here, sede=3))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "bad.yaml, line 16" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= SCREEN


def test_debug_shows_where_it_comes_from(here: Path) -> None:
    done = command(here, "--debug", "report", "nowhere")
    assert "Traceback" in done.stderr
    assert "RunError" in done.stderr


def test_a_blocked_import_in_a_real_process(here: Path) -> None:
    (here / "blocked").mkdir()
    (here / "blocked" / "sitecustomize.py").write_text("import sys\nsys.modules['timm'] = None\n")
    done = command(here, "measure", "timm:resnet18", PYTHONPATH=str(here / "blocked"))
    assert done.returncode == 2
    assert "lessen[zoo]" in done.stderr


def test_what_a_folder_or_a_run_is_called_does_not_steer_the_terminal(here: Path, lessen: Any) -> None:
    name = "\x1b]0;x\x07\x9b2J\u202e"
    for split, label in (("train", "cat"), ("test", name)):
        (here / "images" / split / label).mkdir(parents=True)
    said = lessen("measure", "zoo:mlp", "--data", "images")
    fails(said, "\\x1b]0;x\\x07\\x9b2J\\u202e")
    (here / "bad.yaml").write_text('network: zoo:mlp\ndata: Digits\nsteps: ["\\e[2J"]\n')
    fails(lessen("run", "bad.yaml"))
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(said.err)


QUICK = {
    "network": {"build": "zoo:mlp", "arguments": {"inputs": 64, "hidden": [4], "classes": 10}},
    "data": "Digits",
    "steps": ["Half"],
    "deploy": {"runtimes": [], "rounds": 6},
    "measuring": {"repeats": 6},
}


def test_records_do_not_steer_the_terminal(here: Path, lessen: Any) -> None:
    (here / "small.yaml").write_text(yaml.safe_dump(QUICK))
    assert lessen("run", "small.yaml", "--run", "run", "--quiet").code == 0
    with (here / "run" / "records.jsonl").open("a") as stream:
        stream.write('{"subject": "\\u001b[2J", "figure": "bytes", "value": 1.0, "unit": "B", "step": 9}\n')
    said = lessen("resume", "run")
    assert said.code == 0, said
    assert "\\x1b[2J" in said.out
    assert "\x1b" not in said.out + said.err
