"""Files that are written whole or not at all, and read with every mistake in them turned into one error.

All files of the library go through here. Writing raises `RunError` where the disk is full or read-only. Reading opens
regular files only (a named pipe would block, a device would never end), reads no more bytes than a limit, and raises
the error that the caller names.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor

from lessen.core.errors import LessenError, RunError, WeightsError

MOST = 64 << 20
"""Bytes of the longest text that is read whole: what JSON makes of it in memory is about 25 times as much."""

_CHECKSUM = "lessen.sha256"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file next to `path`, then put it in the place of `path` in one step.

    Whatever goes wrong in between (an error, a full disk, a kill), the old file is still there, whole. The new file is
    on the disk, not only in its cache, before it takes the name.

    Raises:
        RunError: the disk is full or read-only, or the path cannot be a file.
    """
    with writing(path):
        if path.exists() and not path.is_file() and not path.is_dir():
            # Renaming would put a file in the place of the device: root replaces /dev/null for everybody.
            raise RunError(f"{path} is a device, a pipe or a socket, not a file. Choose another place.")
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
            # On a disk that has just become read-only, this fails as well; the first error says why.
            with suppress(OSError):
                part.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the disk refuses inside the block into one error that names the path.

    Raises:
        RunError: the disk is full or read-only, or the path cannot be a file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error
    except SafetensorError as error:
        if "I/O" not in str(error):
            raise  # not the disk: what was to be written is wrong
        raise cannot_write(path, OSError(str(error))) from error


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error of a file that cannot be written."""
    return RunError(
        f"{path} cannot be written: {error.strerror or error}. The previous version is intact. Free some space or "
        "choose another place, then give the same command again; an interrupted run continues with `lessen resume`."
    )


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    write_whole(path, lambda part: part.write_bytes(content))


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path` as UTF-8, whole or not at all. Half a surrogate pair is written as its escape."""
    write_bytes(path, content.encode(errors="backslashreplace"))


def write_json(path: Path, content: object) -> None:
    """Write `content` to `path` as indented JSON, whole or not at all. NaN and infinity are refused."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write named tensors to a safetensors file, whole or not at all, with a checksum over them and the metadata.

    Tensors that share memory are written once each, contiguous: a file never depends on how memory was laid out.

    Raises:
        RunError: the disk is full or read-only, or the path cannot be a file.
    """
    from safetensors.torch import save_file

    own = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    about = dict(metadata or {})
    about[_CHECKSUM] = _checksum(own, about)
    write_whole(path, lambda part: save_file(own, part, about))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; nothing in it is executed.

    Raises:
        WeightsError: there is no such file, or it is damaged or of another format.
    """
    return read_described(path)[0]


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without its tensors; empty where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def read_described(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; nothing in it is executed.

    Of a file that `write_tensors` wrote, every bit is checked; those of other programs carry no checksum.

    Raises:
        WeightsError: there is no such file, or it is damaged or of another format.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path, error=WeightsError, expected="a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            about = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, KeyError, ValueError) as error:  # KeyError: a type that this torch does not have
        raise WeightsError(
            f"{path} is not a whole safetensors file ({error}). It may be cut short, or of another format; "
            "write it again with safetensors.torch.save_file."
        ) from error
    kept = about.pop(_CHECKSUM, None)
    if kept is not None and kept != _checksum(tensors, about):
        raise WeightsError(
            f"{path} is damaged: its checksum does not match its tensors. Restore it from a copy, or create it again."
        )
    return tensors, about


def _checksum(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    import torch

    total = hashlib.sha256(json.dumps(sorted(about.items())).encode())
    for name, value in sorted(tensors.items()):
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        if value.numel():
            total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def check_regular(path: Path, *, error: type[LessenError] = RunError, expected: str) -> None:
    """Whether a path is a file that can be read to its end: no folder, no named pipe, no device.

    Args:
        path: The path.
        error: What to raise.
        expected: What the file should be, as "a YAML file".

    Raises:
        LessenError: of the class `error`.
    """
    try:
        if path.is_file():
            return
        there = path.exists() or path.is_symlink()
    except (OSError, ValueError) as cause:  # ValueError: a NUL in the path
        raise error(f"{str(path)!r} cannot be read ({cause}). Give the path of {expected}.") from cause
    if there:
        raise error(f"{path} is not a file that can be read, but a folder, a pipe or a device. Expected {expected}.")
    raise error(f"There is no file {path}. Give the path of {expected}.")


def read_text(
    path: Path, *, error: type[LessenError] = RunError, expected: str = "a text file", most: int = MOST
) -> str:
    """The text of a UTF-8 file.

    Args:
        path: The path.
        error: What to raise.
        expected: What the file should be, as "a YAML file".
        most: Bytes that it may have.

    Raises:
        LessenError: of the class `error`: there is no such file, it is no regular file, too long, or not UTF-8.
    """
    check_regular(path, error=error, expected=expected)
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
        if len(content) > most:
            raise error(f"{path} has more than {most:,} bytes, the limit for {expected}.")
        return content.decode("utf-8")
    except (OSError, UnicodeDecodeError) as cause:
        raise error(f"{path} cannot be read as {expected}: {cause}.") from cause


def read_json(path: Path, *, error: type[LessenError] = RunError, most: int = MOST) -> Any:
    """The JSON of a file: plain data, nothing is checked but that it is JSON.

    Raises:
        LessenError: of the class `error`: there is no such file, or it is not JSON.
    """
    return parse_json(read_text(path, error=error, expected="a JSON file", most=most), str(path), error=error)


def parse_json(text: str, source: str, *, error: type[LessenError] = RunError) -> Any:
    """JSON as plain data. What the standard does not have (NaN, infinity), and what is nested too deep, is refused.

    Args:
        text: The JSON.
        source: Where it comes from, for the error.
        error: What to raise.

    Raises:
        LessenError: of the class `error`.

    >>> parse_json('{"a": [1, 2]}', "here")
    {'a': [1, 2]}
    >>> parse_json("[NaN]", "here")
    Traceback (most recent call last):
    ...
    lessen.core.errors.RunError: here is damaged: NaN is not JSON.
    """
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as cause:
        raise error(f"{source} is damaged: it is nested too deep.") from cause
    except ValueError as cause:  # not JSON, or a number of thousands of digits
        raise error(f"{source} is damaged: {cause}.") from cause


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Append one JSON line. Readers skip a last line that a kill cut short (see `read_lines`).

    Raises:
        RunError: the disk is full or read-only, or there is something else than a file at the path.
    """
    append_text(path, json.dumps(content, allow_nan=False) + "\n")


def append_text(path: Path, content: str) -> None:
    """Append to a UTF-8 file.

    Raises:
        RunError: the disk is full or read-only, or there is something else than a file at the path.
    """
    with writing(path):
        if path.exists():
            check_regular(path, expected="a file to append to")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(content)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, each an object; a last line that was cut short is left out.

    Raises:
        RunError: the file cannot be read, or another line than the last is not an object.
    """
    if not path.exists():
        return []
    lines = read_text(path, expected="a file of JSON lines", most=8 * MOST).split("\n")
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line, f"Line {number} of {path}")
        except RunError:
            if number < len(lines):
                raise
            continue
        if not isinstance(row, dict):
            raise RunError(f"Line {number} of {path} is damaged: it is not an object.")
        rows.append(row)
    return rows


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


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
