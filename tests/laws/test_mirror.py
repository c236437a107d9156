"""The tests mirror the source: the name of a test file says which module, or which package, it tests."""

from __future__ import annotations

from pathlib import Path

import pytest

import lessen

SOURCE = Path(lessen.__file__).parent
TESTS = Path(__file__).parents[1]

ELSEWHERE = {
    "laws": "what holds for every method of the catalogue, for several packages, or for the source text",
    "whole": "what people do, through several packages: notebooks, commands, pages of the documentation, benchmarks",
    "hostile": "damaged and forged files, kills and full disks, with the programs that make them",
    "outside": "a package that is installed next to lessen",
}


def subject(file: Path, source: Path = SOURCE) -> str | None:
    """The name of what a test file tests, from its path relative to `tests`; none if there is no such module.

    `operations/quantize/test_grids.py` tests `operations/quantize/grids.py`. What follows a module's name says which
    aspect of it: `engine/test_run_resume.py`. A file that tests a whole package has the package's name, and lies in
    the folder of the package or above it.
    """
    folder = source / file.parent
    if not folder.is_dir():
        return None
    there = {path.stem for path in folder.iterdir() if not path.name.startswith("_")} | {folder.name}
    words = file.stem.removeprefix("test_").split("_")
    names = ("_".join(words[:end]) for end in range(len(words), 0, -1))
    return next((name for name in names if name in there), None)


def test_every_test_file_names_what_it_tests() -> None:
    files = sorted(path.relative_to(TESTS) for path in TESTS.rglob("test_*.py"))
    assert len(files) > 100
    lost = [str(file) for file in files if file.parts[0] not in ELSEWHERE and subject(file) is None]
    assert not lost, (
        f"no module or package of src/lessen has the name of {lost}: name a test file after what it tests, in the "
        f"folder that mirrors the package, or put it in one of {[f'tests/{name}' for name in ELSEWHERE]}"
    )


def test_every_folder_apart_is_there() -> None:
    assert {name for name in ELSEWHERE if not (TESTS / name).is_dir()} == set()
    assert not [name for name in ELSEWHERE if (SOURCE / name).is_dir()]


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("deploy/test_export.py", "export"),
        ("deploy/test_export_twice.py", "export"),
        ("deploy/test_exports.py", None),
        ("deploy/forms/test_codes.py", "codes"),
        ("deploy/test_codes.py", None),
        ("deploy/test_forms.py", "forms"),
        ("deploy/forms/test_forms.py", "forms"),
        ("measure/test_multiply_adds.py", "multiply_adds"),
        ("test_lessen.py", "lessen"),
        ("nowhere/test_export.py", None),
    ],
)
def test_a_name_is_found_and_missed(file: str, name: str | None) -> None:
    assert subject(Path(file)) == name
