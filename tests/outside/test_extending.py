"""docs/extending.md is the package that the tests install: block by block."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent
PAGE = (PACKAGE.parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```', PAGE, flags=re.S))
METHODS = sorted(path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / "lessen_example").glob("*.py"))


@pytest.mark.parametrize("name", [*METHODS, "pyproject.toml"])
def test_the_page_has_the_file_as_it_is(name: str) -> None:
    assert BLOCKS[name] == (PACKAGE / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", METHODS)
def test_no_method_takes_more_than_80_lines(name: str) -> None:
    assert len(BLOCKS[name].splitlines()) < 80


def test_every_block_is_the_file_of_a_test() -> None:
    assert BLOCKS.keys() == {*METHODS, "pyproject.toml", "recipe.yaml", "use.py", "load.py"}
    assert len(BLOCKS) == len(re.findall(r"```(?:python|yaml|toml)", PAGE))
