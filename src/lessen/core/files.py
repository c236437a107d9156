"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside `path`, then put it in the place of `path` in one step.

    Whatever goes wrong in between (an error, a full disk, a kill), the old file is still there, whole. The new file is
    on the disk, not only in its cache, before it takes the name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    part = Path(name)
    try:
        write(part)
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
        _sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    write_whole(path, lambda part: part.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all. NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, whole or not at all.

    Tensors that share memory are written once each, contiguous: a file never depends on how memory was laid out.
    """
    from safetensors.torch import save_file

    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_whole(path, lambda part: save_file(own, part, dict(metadata) if metadata else None))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; nothing in it is executed."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lessen.core.errors import WeightsError

    if not path.is_file():
        raise WeightsError(f"There is no file {path}. Give the path of a .safetensors file.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). It may be cut short, or of another format; "
            "write it again with safetensors.torch.save_file."
        ) from error


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append one JSON line. Readers skip a last line that a kill cut short (see `read_lines`)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(content, allow_nan=False) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file; a last line that was cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines) - 1:
                raise
    return rows


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
