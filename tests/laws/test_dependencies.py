"""What lessen asks to be installed is what it imports."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import lessen

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


COMES_WITH = {
    "annotated-types": "pydantic",
    "typing-extensions": "pydantic",
    "protobuf": "onnx",
    "google-auth": "the same folder as protobuf, google",
    "pytest": "those who use lessen.testing",
}


def name_of(requirement: str) -> str:
    """The name of a distribution, as it is compared.

    >>> name_of("onnx_ir>=0.1.15"), name_of("torch")
    ('onnx-ir', 'torch')
    """
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def imported(source: str) -> Iterator[str]:
    """The top-level modules that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0]


def distributions() -> set[str]:
    """The distributions that lessen imports."""
    sources = [path.read_text(encoding="utf-8") for path in Path(lessen.__file__).parent.rglob("*.py")]
    modules = {module for source in sources for module in imported(source)}
    of = packages_distributions()
    return {name_of(each) for module in modules for each in of.get(module, ())}


def test_every_hard_dependency_is_imported() -> None:
    unused = {name_of(each) for each in PROJECT["dependencies"]} - distributions()
    assert not unused


def test_every_import_is_of_a_dependency() -> None:
    """What is imported without being asked for would be missing on another machine."""
    extras = [each for name, listed in PROJECT["optional-dependencies"].items() if name != "dev" for each in listed]
    asked = {name_of(each) for each in (*PROJECT["dependencies"], *extras)}
    assert distributions() - asked - COMES_WITH.keys() <= {"lessen"}


@pytest.mark.parametrize("planted", ["import tensorly", "def f():\n    from tensorly.decomposition import parafac"])
def test_an_import_inside_a_function_counts(planted: str) -> None:
    assert [*imported(planted)] == ["tensorly"]
