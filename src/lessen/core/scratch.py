"""Folders for files that are not kept. What a killed process left is removed by the next one that needs a folder."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lessen.core.files import writing

_PREFIX, _LOCK = "lessen-", ".lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder below the system's temporary one, for a block.

    Its owner holds a lock on a file in it, so that others can tell whether it is still in use.

    Raises:
        RunError: there is no room for it.
    """
    sweep()
    with writing(Path(tempfile.gettempdir())):
        folder, descriptor = _locked()
    try:
        yield folder
    finally:
        os.close(descriptor)
        shutil.rmtree(folder, ignore_errors=True)


def sweep() -> None:
    """Remove the folders of processes that are gone; those of others, and of other users, are left alone."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)  # what has no such file is not ours
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)


def _locked() -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR)
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.is_dir():
                return folder, descriptor
        os.close(descriptor)  # somebody swept it in the moment before it was locked
