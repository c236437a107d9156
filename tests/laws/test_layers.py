"""A package imports from lower layers only, and `import lessen` is light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import lessen

ROOT = Path(lessen.__file__).parent
LAYERS = {
    "core": 0,
    **dict.fromkeys(["functional", "surgery", "data", "zoo"], 1),
    **dict.fromkeys(["tasks", "optim"], 2),
    **dict.fromkeys(["knowledge", "operations", "measure"], 3),
    "sparsify": 4,
    **dict.fromkeys(["graph", "deploy", "report"], 5),
    "engine": 6,
    **dict.fromkeys(["schemes", "diagnose"], 7),
    "pipeline": 8,
    "search": 9,
    **dict.fromkeys(["recipe", "cli"], 10),
    "testing": 11,
}
# The two of one layer where one may use the other: the command line reads recipes.
ALLOWED = {("cli", "recipe")}
HEAVY = {
    "torchvision",
    "timm",
    "transformers",
    "plotly",
    "openvino",
    "optuna",
    "onnx",
    "onnxruntime",
    "accelerate",
    "sklearn",
}

# What a lower layer loads by name, because a higher one supplies it: contexts train in the engine's loop.
SUPPLIED = {"core/training.py": ["engine"]}


def upward(package: str, source: str) -> list[str]:
    """The packages of lessen that this source of `package` imports against the arrows."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module] if node.module != "lessen" else [f"lessen.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [each.value for each in node.args if isinstance(each, ast.Constant)]
        for name in names:
            parts = name.split(".")
            if parts[0] != "lessen" or len(parts) == 1 or parts[1] == package:
                continue
            target = parts[1]
            if target not in LAYERS or (LAYERS[target] >= LAYERS[package] and (package, target) not in ALLOWED):
                found.append(target)
    return found


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_imports_point_down(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = {str(file.relative_to(ROOT)): up for file in files if (up := upward(package, file.read_text()))}
    assert found == {file: up for file, up in SUPPLIED.items() if file.startswith(f"{package}/")}


def test_an_arrow_that_points_up_is_found() -> None:
    assert upward("core", "from lessen.engine import run") == ["engine"]
    assert upward("knowledge", "import lessen.operations.prune") == ["operations"]
    assert upward("graph", "from lessen import engine") == ["engine"]
    assert upward("surgery", "importlib.import_module('lessen.pipeline')") == ["pipeline"]
    assert upward("graph", "from lessen.core import Card") == []


def test_every_package_has_a_layer() -> None:
    packages = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").is_file()}
    assert packages == set(LAYERS)


def test_import_is_light() -> None:
    code = f"import sys, lessen; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
