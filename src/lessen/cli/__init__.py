"""The command line: files and names in, objects out."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and leave. Nothing is imported from the current folder, whatever lies in it.

    Args:
        arguments: The words after `lessen`; None takes them from the process.
    """
    forget_current_folder()
    from lessen.cli.entry import run

    run(arguments)


def forget_current_folder() -> None:
    """Take the current folder off `sys.path`, unless `PYTHONPATH` names it in full or Python itself lives in it.

    It comes there by `python -m` and by an empty item of `PYTHONPATH`. A `plotly.py` or `yaml.py` that lies in a folder
    from somebody else would be imported, and so executed, in place of the real one.
    """
    here = os.path.realpath(Path.cwd()) if _exists() else ""
    named = [
        os.path.realpath(item) for item in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(item)
    ]
    own = {os.path.realpath(place) for place in (*sysconfig.get_paths().values(), *named)}
    sys.path[:] = [item for item in sys.path if item and (os.path.realpath(item) != here or here in own)]


def _exists() -> bool:
    try:
        os.getcwd()
    except OSError:  # it was removed
        return False
    return True
