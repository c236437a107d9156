"""Calling the command line in this process, in an empty folder of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lessen.cli import main


@dataclass(frozen=True)
class Said:
    """What a command left behind: exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Call = Callable[..., Said]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lessen(here: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    """Run `lessen` with these words."""

    def call(*words: str) -> Said:
        with pytest.raises(SystemExit) as left:
            main(words)
        captured = capsys.readouterr()
        return Said(int(left.value.code or 0), captured.out, captured.err)

    return call
