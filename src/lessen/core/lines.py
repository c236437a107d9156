"""Lines of JSON that nothing depends on: what a crash has damaged is left out, and it is said."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lessen.core.files import check_regular

_SAY = logging.getLogger("lessen")


def read_sound_lines(path: Path, sound: Callable[[dict[str, Any]], bool] = lambda row: True) -> list[dict[str, Any]]:
    """The lines of a file that are JSON objects of the right form; none where there is no file.

    How many are damaged is logged as a warning, but for the last line where a kill has cut it short.

    Args:
        path: The file.
        sound: Whether an object is of the right form.

    Raises:
        RunError: there is something else than a file.
    """
    if not path.exists():
        return []
    check_regular(path, expected="a file of JSON lines")
    rows: list[dict[str, Any]] = []
    damaged = 0
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        row = _parsed(line) if line.strip() else None
        if row is not None and sound(row):
            rows.append(row)
        elif line.strip() and number < len(lines):
            damaged += 1
    if damaged:
        _SAY.warning("%s: %d damaged lines were skipped. Only the curves of the report need them.", path, damaged)
    return rows


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
        json.dumps(row, allow_nan=False)
    except (ValueError, RecursionError):  # not JSON, not UTF-8, not a finite number, or nested too deep
        return None
    return row if isinstance(row, dict) else None
