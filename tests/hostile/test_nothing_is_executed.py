"""What lies in the current folder is never imported, and what is loaded is never executed."""

import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import lessen
from lessen.cli import forget_current_folder, main
from lessen.core.errors import ExportError, NetworkError, RecipeError
from lessen.deploy import TorchProgram, export_pt2, trust_pt2
from lessen.recipe import plain_value, read_recipe
from lessen.zoo import build, mlp

MARK = "EXECUTED"
MODULES = (
    *("PIL", "accelerate", "csv", "datasets", "decimal", "fractions", "google", "gzip", "ml_dtypes", "mlflow", "onnx"),
    *("onnx_ir", "onnxruntime", "onnxscript", "openvino", "optuna", "pandas", "plotly", "psutil", "pydantic", "queue"),
    *("rich", "safetensors", "scipy", "sklearn", "sympy", "tarfile", "tensorboard", "timm", "tokenizers"),
    *("torchvision", "transformers", "typer", "yaml", "zipfile"),
)
"""What lessen, or something that it uses, imports at some time."""

COMMANDS = """
import sys
from lessen.cli import main
for words in (["run", "mini.yaml", "--quiet"], ["report", "runs/mini"], ["pack", "runs/mini"], ["load", "runs/mini"],
              ["measure", "runs/mini/model.onnx", "--data", "digits"], ["methods"], ["schema"],
              ["explain", "torchvision:squeezenet1_1"], ["resume", "runs/mini"]):
    try:
        main(words)
    except SystemExit as left:
        print(words, left.code)
"""


class Payload:
    """A pickle of this makes a file when it is loaded without care."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def poisoned(tmp_path: Path) -> Path:
    """A folder with a module of every name, each of which leaves a mark."""
    for name in MODULES:
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / MARK)!r}, 'a').write({name!r} + ' ')\n")
    return tmp_path


def test_no_command_imports_from_the_current_folder(poisoned: Path) -> None:
    (poisoned / "mini.yaml").write_text(
        "network: {build: 'zoo:mlp', arguments: {inputs: 64, hidden: [8], classes: 10}}\ndata: Digits\n"
        "steps: [Half]\nmeasuring: {repeats: 6}\n"
    )
    src = str(Path(lessen.__file__).parents[1])
    said = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(1, {src!r})\n{COMMANDS}"],
        cwd=poisoned,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    mark = poisoned / MARK
    assert not mark.exists(), mark.read_text()
    assert "Traceback" not in said.stderr, said.stderr
    assert said.stdout.count(" 0\n") >= 8, said.stdout + said.stderr


def test_the_mark_is_seen_when_a_module_of_the_folder_is_imported(poisoned: Path) -> None:
    subprocess.run([sys.executable, "-c", "import plotly"], cwd=poisoned, check=True)
    assert (poisoned / MARK).read_text() == "plotly "


@pytest.mark.parametrize("item", ["", "here"])
def test_the_current_folder_leaves_the_path(item: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path) if item else "", *sys.path])
    forget_current_folder()
    assert not {"", str(tmp_path)} & set(sys.path)
    assert len(sys.path) > 2


def test_a_folder_that_pythonpath_names_in_full_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{os.pathsep}{tmp_path}")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    forget_current_folder()
    assert str(tmp_path) in sys.path


def test_an_own_module_finds_its_neighbours_and_shadows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [item for item in sys.path if item])
    (tmp_path / "own_network.py").write_text(
        "import own_neighbour, queue\n"
        "def make():\n    import own_late\n    assert hasattr(queue, 'Queue')\n    return own_neighbour.Linear(2, 2)\n"
    )
    (tmp_path / "own_neighbour.py").write_text("from torch.nn import Linear\n")
    (tmp_path / "own_late.py").write_text("")
    (tmp_path / "queue.py").write_text("raise SystemError\n")
    assert isinstance(build("own_network:make"), torch.nn.Linear)
    assert str(tmp_path) not in sys.path


def test_a_recipe_that_names_a_module_asks_for_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.yaml").write_text(
        f"network: {{build: 'os:mkdir', arguments: {{path: {MARK}}}}}\ndata: Digits\nsteps: [Half]\n"
    )
    with pytest.raises(SystemExit) as left:
        main(["run", "evil.yaml"])
    assert left.value.code == 2
    assert "--allow-import" in capsys.readouterr().err
    assert not (tmp_path / MARK).exists()
    with pytest.raises(NetworkError, match="returned an object of type NoneType"):  # the mark would be made with leave
        read_recipe(tmp_path / "evil.yaml").arguments()
    assert (tmp_path / MARK).exists()


def test_a_program_is_loaded_only_with_leave(tmp_path: Path) -> None:
    """`torch.export.load` falls back to unsafe pickles; it also evaluates sizes and guards as Python."""
    good, evil, mark = tmp_path / "good.pt2", tmp_path / "evil.pt2", tmp_path / MARK
    export_pt2(mlp(inputs=2, hidden=(2,), classes=2), torch.zeros(2, 2), good)
    TorchProgram().load(good, threads=1)  # this process wrote it
    payload = pickle.dumps(Payload(mark))
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(evil, "w") as new:
        for name in old.namelist():
            new.writestr(name, payload if "sample_inputs" in name else old.read(name))
    with pytest.raises(ExportError, match="--allow-import"):
        TorchProgram().load(evil, threads=1)
    assert not mark.exists()
    trust_pt2(evil)
    with pytest.raises(ExportError, match="not a whole"):
        TorchProgram().load(evil, threads=1)
    assert mark.exists(), "the payload is harmless, so this test shows nothing"


def test_the_command_line_asks_for_leave_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    export_pt2(mlp(inputs=64, hidden=(2,), classes=10), torch.zeros(2, 1, 8, 8), "written.pt2")
    Path("other.pt2").write_bytes(Path("written.pt2").read_bytes())
    for words, code in ((["measure", "other.pt2", "--data", "digits"], 2), (["measure", "other.pt2"], 0)):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == code
    with pytest.raises(SystemExit) as left:
        main(["measure", "other.pt2", "--data", "digits", "--allow-import"])
    assert left.value.code == 0
    assert "accuracy" in capsys.readouterr().out


def test_tags_of_yaml_make_nothing() -> None:
    with pytest.raises(RecipeError, match="is not read here"):
        plain_value("!!python/object/apply:os.getcwd []", "--set hidden")
