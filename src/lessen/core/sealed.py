"""Small JSON files that carry their own checksum, so that damage is found before anything believes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lessen.core.errors import RunError
from lessen.core.files import read_json, write_text

_SEAL = "sha256"


def write_sealed(path: Path, content: object) -> None:
    """Write `content` as JSON with its checksum, whole or not at all. NaN and infinity are refused.

    Raises:
        RunError: the disk is full or read-only.
    """
    body = json.dumps(content, indent=1, allow_nan=False)
    write_text(path, f'{{"{_SEAL}": "{_checksum(content)}",\n"content": {body}}}\n')


def read_sealed(path: Path, *, advice: str) -> Any:
    """What `write_sealed` wrote.

    Args:
        path: The file.
        advice: What to do about a file that is damaged, one sentence.

    Raises:
        RunError: there is no such file, it is not JSON, or it is not what was written.
    """
    try:
        found = read_json(path)
    except RunError as error:
        raise RunError(f"{error} {advice}") from error
    if not isinstance(found, dict) or found.keys() != {_SEAL, "content"}:
        raise RunError(f"{path} is damaged, or was not written by lessen: it has no checksum. {advice}")
    if found[_SEAL] != _checksum(found["content"]):
        raise RunError(f"{path} is damaged: its checksum does not match its content. {advice}")
    return found["content"]


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
