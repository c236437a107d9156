"""Folders for what is not kept: gone after the block, and after the next block where a process was killed in one."""

import os
import signal
import tempfile
from pathlib import Path

import pytest

from lessen.core.scratch import scratch


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_nothing_is_left_after_the_block(place: Path) -> None:
    with scratch() as folder:
        (folder / "a").write_text("a")
        assert folder.parent == place
    assert list(place.iterdir()) == []
    with pytest.raises(ValueError, match="this"), scratch():
        raise ValueError("this")
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_others_use_stays(place: Path) -> None:
    for name in ("lessen-of-somebody", "other"):
        (place / name).mkdir()
    with scratch() as used:
        child = os.fork()
        if child == 0:
            with scratch() as folder:
                (folder / "big").write_text("big")
                os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(child, 0)
        assert len(list(place.iterdir())) == 4
        with scratch() as another:
            assert {path.name for path in place.iterdir()} == {"lessen-of-somebody", "other", used.name, another.name}
    assert {path.name for path in place.iterdir()} == {"lessen-of-somebody", "other"}
