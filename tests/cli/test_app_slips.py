"""Slips on the command line: accepted where they can mean one thing only, else one screen and exit code 2."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from lessen.deploy import export_onnx
from lessen.zoo import residual

RECIPE: dict[str, Any] = {
    "network": {"build": "zoo:residual", "arguments": {"width": 4, "depth": 8}},
    "data": {"Digits": {}},
    "steps": [{"Offline": {"epochs": 1}}],
}
MINE = "from lessen.zoo import mlp\n\n\ndef make():\n    return mlp()\n"


@pytest.fixture
def mine(here: Path) -> Path:
    (here / "sub").mkdir()
    for path in (here / "slipnet.py", here / "sub" / "slip.py"):
        path.write_text(MINE)
    (here / "r.yaml").write_text(yaml.safe_dump(RECIPE))
    (here / "file").write_text("nothing")
    (here / "tabs.yaml").write_text("network:\n\tbuild: zoo:residual\n")
    (here / "fit.yaml").write_text(yaml.safe_dump({**RECIPE, "steps": [{"Offline": {"fit": {"lr": 3}}}]}))
    (here / "share.yaml").write_text(yaml.safe_dump({**RECIPE, "steps": [{"PruneChannels": {"keep": 50}}]}))
    (here / "device.yaml").write_text(yaml.safe_dump({**RECIPE, "device": "gpux"}))
    return here


@pytest.mark.parametrize(
    "name",
    ["slipnet.py:make", "./slipnet.py:make", "./slipnet:make", "slipnet:make()", "sub/slip.py:make", "sub.slip:make"],
)
def test_a_network_in_a_file(name: str, mine: Path, lessen: Any) -> None:
    del mine
    said = lessen("explain", name, "--shape", "1,8,8")
    assert said.code == 0, said.err
    assert "parameters" in said.out


CASES: dict[str, tuple[tuple[str, ...], str]] = {
    "a file in the way": (("run", "r.yaml", "--run", "file/sub"), "cannot be written to file/sub: not a directory"),
    "a device of the kernel": (("run", "r.yaml", "--run", "/proc/lessen/x"), "cannot be written to /proc/lessen/x"),
    "a name too long": (("run", "r.yaml", "--run", "x" * 300), "cannot be a folder: file name too long"),
    "a run that is a file": (("run", "r.yaml", "--run", "file"), "file already exists and is not a folder"),
    "a program": (("run", "slipnet.py"), "slipnet.py is a Python program; run it with: python slipnet.py"),
    "no recipe": (("run", "nowhere.yaml"), "There is no file nowhere.yaml"),
    "a folder for a recipe": (("run", "sub"), "sub"),
    "tabs": (("run", "tabs.yaml"), "tabs.yaml, line 2"),
    "a rate in the wrong place": (("run", "fit.yaml"), "Fit has no setting 'lr': it belongs to the optimizer"),
    "a percentage": (("run", "share.yaml"), "write 0.5"),
    "no such device": (("run", "r.yaml", "--device", "gpux"), "There is no device 'gpux'"),
    "no such device in a recipe": (("run", "device.yaml"), "There is no device 'gpux'"),
    "a report of a file": (("report", "file"), "file is a file. Give the folder of a run"),
    "a report of nothing": (("report", "nowhere"), "There is no folder nowhere"),
    "resuming a file": (("resume", "r.yaml"), "r.yaml is a file. Give the folder of a run"),
    "a missing file": (("measure", "nowhere.onnx"), "There is no file nowhere.onnx"),
    "a missing folder of data": (("measure", "zoo:mlp", "--data", "nowhere"), "nowhere"),
    "no function": (("explain", "./slipnet.py", "--shape", "1,8,8"), "Name the function in it, as ./slipnet.py:make"),
    "another function": (("explain", "./slipnet.py:mak", "--shape", "1,8,8"), "no 'mak': did you mean 'make'"),
    "another file": (("explain", "./mine.py:make", "--shape", "1,8,8"), "There is no file mine.py"),
    "a file above": (("explain", "../slipnet.py:make", "--shape", "1,8,8"), "slipnet.py"),
    "a shape": (("explain", "slipnet:make", "--shape", "1;8"), "'1;8' is no shape"),
}


@pytest.mark.parametrize("case", CASES)
def test_one_screen_and_two(case: str, mine: Path, lessen: Any) -> None:
    words, part = CASES[case]
    before = sorted(mine.rglob("*"))
    said = lessen(*words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("lessen: ")
    assert part in said.err
    assert len(said.err.splitlines()) <= 24
    for raw in ("Traceback", "Errno", "TypeError", "pydantic"):
        assert raw not in said.err
    assert sorted(path for path in mine.rglob("*") if "__pycache__" not in path.parts) == before


def test_a_file_says_what_it_takes(here: Path, lessen: Any) -> None:
    export_onnx(residual(width=4, depth=8).eval(), torch.rand(2, 1, 8, 8), here / "model.onnx")
    labels = np.zeros(8, dtype=np.int64)
    for name, shape in (("wide", (8, 1, 9, 9, 2)), ("flat", (8, 64))):
        np.savez(here / f"{name}.npz", x=np.random.default_rng(0).random(shape).astype(np.float32), y=labels)
        said = lessen("measure", "model.onnx", "--data", f"{name}.npz")
        assert said.code == 2, said
        assert "model.onnx does not run on inputs of shape" in said.err
        assert ", ".join(map(str, shape[1:])) in said.err  # what came
        assert "1, 8, 8" in said.err or "1, height, width" in said.err  # what was expected
        assert "ONNXRuntimeError" not in said.err
        assert "Traceback" not in said.err


def test_python_m(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lessen", "--version"], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert done.stdout.startswith("lessen ")
