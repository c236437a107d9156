"""A package outside the tree brings a method of each kind: installed, used in a recipe, loaded, packed and resumed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import nn

import lessen
from lessen.cli import main
from lessen.core import others
from lessen.core.errors import PlanError, RecipeError
from lessen.pipeline import Measuring, walk
from lessen.surgery.forms import forms_of
from lessen.zoo import build

PACKAGE = Path(__file__).parent
PAGE = (PACKAGE.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE, flags=re.S))
RECIPE = BLOCKS["recipe.yaml"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the package is installed, as pip does it."""
    source, target = tmp_path_factory.mktemp("source") / "package", tmp_path_factory.mktemp("site")
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("*.py[co]", "__pycache__", "test_*", "conftest.py"))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    command += ["--no-index", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(command, check=True, timeout=300)
    return target


@pytest.fixture
def _anew(installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A process that has the package installed, and has allowed nothing."""
    monkeypatch.syspath_prepend(str(installed))
    monkeypatch.setattr(others, "_allowed", set())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "lessen_example"]:
        del sys.modules[name]


def network() -> nn.Module:
    return build("zoo:mlp", inputs=2, hidden=[32, 32], classes=3, seed=7)


def cli(*words: str) -> int:
    """The exit status of a command."""
    try:
        main(list(words))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be allowed, as in another process."""
    monkeypatch.setattr(others, "_allowed", set())


@pytest.mark.usefixtures("_anew")
def test_a_recipe_with_methods_of_others(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert others.offers() == {"example": "lessen_example"}

    # A recipe alone executes nothing.
    assert cli("run", "recipe.yaml", "--run", "refused") != 0
    said = " ".join(capsys.readouterr().err.split())
    assert "uses the methods of the module 'example'" in said
    assert "--allow-import" in said
    assert "lessen_example" not in sys.modules
    assert not Path("refused").exists()

    # Killed in the export, and resumed: the steps before it are read back.
    with monkeypatch.context() as only:
        only.setattr(walk, "deploy_steps", stop)
        with pytest.raises(Killed):
            cli("run", "recipe.yaml", "--run", "run", "--allow-import", "--quiet")
    forget(monkeypatch)
    assert cli("resume", "run", "--quiet") != 0
    assert "--allow-import" in capsys.readouterr().err
    assert cli("resume", "run", "--quiet", "--allow-import") == 0

    # The plan names the module of what is not lessen's.
    plans = json.loads(Path("run/plan.json").read_text())
    assert plans == [{"TernaryPlan": {"names": ["layer2"]}, "from": "lessen_example.operation"}]
    drawn = json.loads(Path("run/graph.json").read_text())
    assert {node["kind"] for stage in drawn for node in stage["nodes"]} >= {"Noisy"}
    assert "TernaryPlan" in Path("run/report.html").read_text() or "ternary" in Path("run/report.html").read_text()

    # Loading and packing need the same permission.
    forget(monkeypatch)
    with pytest.raises(PlanError, match=r"TernaryPlan comes from the module 'lessen_example.operation'.*allow_import"):
        lessen.load("run", network())
    with pytest.raises(RecipeError, match=r"uses the methods of the module 'example'"):
        lessen.load("run")
    small = lessen.load("run", network(), allow_import=True)
    assert [type(form).__name__ for form in forms_of(small.get_submodule("layer2"), "weight")] == ["TernaryForm"]
    assert small.get_submodule("layer2").weight.unique().numel() <= 2 * 32 + 1
    packed = lessen.pack("run", out="small.safetensors")
    forget(monkeypatch)
    with pytest.raises(PlanError, match=r"TernaryPlan comes from the module"):
        lessen.load("small.safetensors", network())
    lessen.use("example")
    again = lessen.load("small.safetensors", network())
    x = torch.randn(5, 2)
    with torch.no_grad():
        assert torch.equal(again(x), small(x))
    assert packed.tensors["layer2.weight.codes"] <= 32 * 32 * 2 / 8 + 64

    # The file that runs was verified, and is the network that was loaded.
    (file,) = Path("run").glob("*.onnx")
    onnx.checker.check_model(onnx.load(str(file)))


@pytest.mark.usefixtures("_anew")
def test_workers_of_a_sweep_import_what_the_recipe_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    text = RECIPE.replace("epochs: 20", "epochs: 1").replace("epochs: 4", "epochs: 1")
    Path("recipe.yaml").write_text(text.replace("runtimes: [OnnxRuntime]", "runtimes: []"))
    vary = {"steps.1.noise": [0.0, 0.2]}
    with pytest.raises(RecipeError, match=r"uses the methods of the module 'example'"):
        lessen.sweep("recipe.yaml", vary, run="refused", workers=2)
    # What was allowed for something else is no business of the workers.
    monkeypatch.setattr(others, "_allowed", {"no_such_package"})
    lessen.use("example")
    made = lessen.sweep("recipe.yaml", vary, run="sweep", workers=2, progress=False)
    assert (len(made.runs), made.failed) == (2, {})


@pytest.mark.usefixtures("_anew")
def test_the_lines_for_python_run_as_they_stand(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    with monkeypatch.context() as quick:
        quick.setattr(lessen, "compress", partial(lessen.compress, deploy=None, measuring=Measuring(repeats=6)))
        exec(compile(BLOCKS["use.py"], "use.py", "exec", dont_inherit=True), given)
    x = torch.ones(1, 2)
    lines = f"{BLOCKS['load.py']}\nimport torch\nprint(network(torch.ones(1, 2)).tolist())"
    path = os.pathsep.join([str(installed), str(Path(lessen.__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    said = subprocess.check_output([sys.executable, "-c", lines], env=environment, text=True, timeout=300)
    with torch.no_grad():
        assert torch.allclose(torch.tensor(json.loads(said)), given["small"].model(x))


class Killed(Exception):
    """What stops a run, as a kill would."""


def stop(*given: Any, **more: Any) -> None:
    raise Killed
