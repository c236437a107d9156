"""Arrays in `.npy` and `.npz` files: large ones are mapped, and what a header says is checked before it is believed."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil
from numpy.typing import NDArray

from lessen.core.errors import DataError
from lessen.data.stored import BLOCK, LARGE

_DEFLATED_MOST = 1032
"""Deflate makes at most so many bytes of one."""


def read_npy(path: Path) -> NDArray[Any]:
    """The array of a `.npy` file; mapped, not read, where it is large.

    Raises:
        DataError: there is no such file, or it is not a whole array of plain numbers.
    """
    _regular(path, "what numpy.save wrote")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        return array if array.nbytes >= LARGE else np.array(array)
    except Exception as error:
        raise DataError(f"{path} is not a .npy file of plain numbers ({error}). Write it with numpy.save.") from error


def read_npz(path: Path, wanted: Callable[[str], bool]) -> tuple[Mapping[str, NDArray[Any]], list[str]]:
    """The wanted arrays of a `.npz` file, and the names of all; those that are not wanted are not read.

    Large arrays that are stored as they are (`numpy.savez`) are mapped after their checksum was seen to be right;
    others are read.

    Raises:
        DataError: there is no such file, it is damaged, or an array is not of plain numbers or does not fit into
            memory.
    """
    _regular(path, "what numpy.savez wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            for info in members.values():
                archive.open(info).close()  # compares the name in the directory with that in front of the bytes
            return {name: _read(path, archive, info) for name, info in members.items() if wanted(name)}, list(members)
    except DataError:
        raise
    except Exception as error:
        said = str(error) or type(error).__name__
        raise DataError(f"{path} is not a .npz file of plain arrays ({said}). Write it with numpy.savez.") from error


def _regular(path: Path, what: str) -> None:
    if not path.is_file():
        there = "is not a file" if path.exists() else "is not there"
        raise DataError(f"{path} {there}. Give the path of {what}.")


def _read(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as stream:
        shape, fortran, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError(f"{info.filename} holds Python objects")
        start, size = stream.tell(), math.prod(shape) * dtype.itemsize
        if start + size != info.file_size:
            raise ValueError(f"{info.filename} promises {size} bytes of numbers, but has {info.file_size - start}")
        if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise ValueError(f"{info.filename} is compressed as NumPy does not")
        if info.compress_type == zipfile.ZIP_DEFLATED and info.file_size > info.compress_size * _DEFLATED_MOST:
            raise ValueError(f"{info.compress_size} bytes of {info.filename} cannot hold {info.file_size}")
        order: Any = "F" if fortran else "C"
        if info.compress_type == zipfile.ZIP_STORED and size >= LARGE:
            while stream.read(BLOCK):  # to its end, where the checksum is compared
                pass
            place = _place(path, info) + start
            return np.memmap(path, dtype, "r", offset=place, shape=shape, order=order)
        if size > psutil.virtual_memory().available:
            raise DataError(
                f"{info.filename} in {path} takes {size / 2**30:.1f} GiB, more than the free memory. Write the array "
                "without compression (numpy.savez or numpy.save): then it is read from the disk batch by batch."
            )
        raw = np.empty(size, np.uint8)
        filled = 0
        while chunk := stream.read(BLOCK):  # to its end, where the checksum is compared
            raw[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
            filled += len(chunk)
        if filled < size:
            raise ValueError(f"{info.filename} is cut short")
        return raw.view(dtype).reshape(shape, order=order) if size else np.empty(shape, dtype)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in {(1, 0), (2, 0)}:
        raise ValueError(f"the version of the format is {version}")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"the shape is {shape}")
    return shape, fortran, dtype


def _place(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member begin: behind its own header, whose name and extra field may have any length."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset + 26)
        lengths = np.frombuffer(stream.read(4), "<u2")
    return info.header_offset + 30 + int(lengths.sum())
