"""Runs by their folder alone; what a stranger's folder names is not run."""

import sys
from pathlib import Path

import pytest
import torch
import yaml

import lessen
from lessen.core.errors import RecipeError, RunError
from lessen.core.files import write_tensors
from lessen.deploy import Deploy
from lessen.operations import PruneChannels
from lessen.pipeline import RunFolder
from lessen.pipeline.folder import State, as_recipe
from lessen.recipe import as_data, read_recipe
from lessen.zoo import build, residual

OWN = """
network: {build: "strange:make"}
data: Digits
steps: []
"""
NAMED = OWN.replace("strange:make", "zoo:mlp")


def finished(folder: Path, recipe: str) -> Path:
    """A run that has come to its end without doing anything."""
    (folder / "given.yaml").write_text(recipe)
    run = RunFolder(folder / "run")
    asked = as_recipe(as_data(read_recipe(folder / "given.yaml")))
    run.begin(State.new(job={}, asked=asked, given={}, frozen={}), {})
    write_tensors(run.weights, build("zoo:mlp", seed=3).state_dict())
    run.plan.write_text("[]")
    return run.path


def test_a_run_is_loaded_by_its_folder_alone(tmp_path: Path) -> None:
    made = lessen.load(finished(tmp_path, NAMED))
    kept = build("zoo:mlp", seed=3).state_dict()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in made.state_dict().items())


@pytest.mark.parametrize("call", [lessen.load, lessen.resume])
def test_a_module_that_a_folder_names_is_imported_only_when_allowed(
    call: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(call)
    (tmp_path / "strange.py").write_text(
        f"from pathlib import Path\nfrom lessen.zoo import mlp as make\nPath({str(tmp_path / 'ran')!r}).touch()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    run = finished(tmp_path, OWN)
    with pytest.raises(RecipeError, match=r"'strange:make'.*--allow-import"):
        call(run)
    assert not (tmp_path / "ran").exists()
    assert "strange" not in sys.modules
    try:
        lessen.load(run, allow_import=True)
        assert (tmp_path / "ran").exists()  # the same folder, allowed: the check above could have failed
    finally:
        sys.modules.pop("strange", None)


def test_a_student_is_asked_about_too(tmp_path: Path) -> None:
    run = finished(tmp_path, NAMED)
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    (run / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "student": {"build": "strange:make"}}))
    with pytest.raises(RecipeError, match="strange:make"):
        lessen.load(run)


def test_a_run_from_python_says_what_to_call(tmp_path: Path) -> None:
    network = residual(width=4, depth=8).eval()
    images, labels = torch.randn(40, 1, 8, 8), torch.arange(40) % 10
    splits = {"train": (images, labels), "validation": (images, labels), "test": (images, labels)}
    made = lessen.compress(
        network,
        splits,
        steps=[PruneChannels(keep=0.5)],
        run=tmp_path / "run",
        deploy=Deploy(runtimes=()),
        progress=False,
    )
    with pytest.raises(RunError, match=r"lessen\.load\("):
        lessen.load(tmp_path / "run")
    loaded = lessen.load(tmp_path / "run", residual(width=4, depth=8))
    assert torch.equal(loaded(images[:2]), made.model(images[:2]))
