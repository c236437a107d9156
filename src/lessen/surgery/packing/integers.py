"""Whole numbers in as few bits as they need, and in fewer where some come more often than others.

Two forms. In the first each number takes `width` bits, the lowest first, without gaps between numbers or bytes. In the
second each takes a byte (or two, four, eight) and the bytes are deflated: with its own matching switched off, deflate
is a Huffman code, and comes within a few per cent of the entropy. The shorter one is kept.

Shapes: n numbers.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np

from lessen.core.errors import WeightsError
from lessen.surgery.packing.stream import Sink, Source

Array = np.ndarray[Any, Any]
_CHUNK = 1 << 20
_SAMPLE = 1 << 14
_RAW = -15
"""Deflate without the header and the checksum of zlib: the file has checksums of its own."""


def check_count(what: str, found: Any, most: int) -> None:
    """Whether a number that a file states is a count that its tensor can have.

    Raises:
        WeightsError: it is no whole number, or too large.
    """
    if type(found) is not int or not 0 <= found <= most:
        raise WeightsError(f"{found!r:.50} {what} are stated, and {most} are the most. The file is damaged.")


def width_of(largest: int) -> int:
    """How many bits count from 0 to `largest`.

    >>> [width_of(each) for each in (0, 1, 2, 15, 16)]
    [0, 1, 2, 4, 5]
    """
    return int(largest).bit_length()


def pack_bits(numbers_n: Array, width: int) -> bytes:
    """Numbers of `width` bits each, one behind the other, the lowest bit first: ceil(n * width / 8) bytes.

    Args:
        numbers_n: Whole, from 0 to 2^width - 1.
        width: 0 to 64; of numbers of 0 bits nothing is written.

    >>> pack_bits(np.array([1, 2, 3, 4]), 3).hex()
    'd108'
    """
    flat, places = numbers_n.reshape(-1).astype(np.uint64), np.arange(width, dtype=np.uint64)
    if width in {8, 16, 32, 64}:
        return flat.astype(f"<u{width // 8}").tobytes()
    parts = [
        np.packbits(((flat[start : start + _CHUNK, None] >> places) & np.uint64(1)).astype(np.uint8), bitorder="little")
        for start in range(0, len(flat), _CHUNK)
    ]
    return b"".join(part.tobytes() for part in parts)


def unpack_bits(content: bytes, width: int, count: int) -> Array:
    """The `count` numbers that `pack_bits` wrote, shape (n,), uint64.

    >>> unpack_bits(bytes.fromhex("d108"), 3, 4).tolist()
    [1, 2, 3, 4]

    Raises:
        WeightsError: there are too few or too many bytes.
    """
    if not 0 <= width <= 64 or len(content) != (count * width + 7) // 8:
        raise WeightsError(f"{len(content)} bytes are not {count} numbers of {width} bits. The file is damaged.")
    if width in {8, 16, 32, 64}:
        return np.frombuffer(content, f"<u{width // 8}").astype(np.uint64)
    weights, made = np.uint64(1) << np.arange(width, dtype=np.uint64), np.zeros(count, np.uint64)
    for start in range(0, count if width else 0, _CHUNK):
        some = min(_CHUNK, count - start)
        piece = np.frombuffer(content, np.uint8, offset=start * width // 8, count=(some * width + 7) // 8)
        bits = np.unpackbits(piece, count=some * width, bitorder="little").reshape(some, width)
        made[start : start + some] = bits.astype(np.uint64) @ weights
    return made


def write_integers(numbers_n: Array, sink: Sink, *, coded: bool = True) -> dict[str, Any]:
    """Write whole numbers, none below zero, and give the form they were written in.

    Args:
        numbers_n: Shape (n,).
        sink: Where to.
        coded: Whether frequent numbers may take fewer bits; without it each takes the same.
    """
    width = width_of(int(numbers_n.max(initial=0)))
    packed = pack_bits(numbers_n, width)
    if coded and width:
        size = next(size for size in (1, 2, 4, 8) if 8 * size >= width)
        short = deflated(numbers_n.astype(f"<u{size}").tobytes())
        if len(short) < len(packed):
            return {"deflated": size, "bytes": sink.put(short)}
    return {"bits": width, "bytes": sink.put(packed)}


def read_integers(form: dict[str, Any], source: Source, count: int) -> Array:
    """The numbers that `write_integers` wrote, shape (n,), uint64.

    Raises:
        WeightsError: the file is damaged.
    """
    content = source.take(form["bytes"])
    if "bits" in form:
        return unpack_bits(content, form["bits"], count)
    size = form["deflated"]
    if size not in {1, 2, 4, 8}:
        raise WeightsError(f"Numbers of {size!r} bytes are not known. The file is damaged, or of a later version.")
    return np.frombuffer(inflated(content, count * size), f"<u{size}").astype(np.uint64)


def deflated(content: bytes) -> bytes:
    """The content as a Huffman code; also with repetitions taken out, where its beginning gets shorter by that."""
    plain, matched = _press(content[:_SAMPLE], zlib.Z_HUFFMAN_ONLY), _press(content[:_SAMPLE], zlib.Z_DEFAULT_STRATEGY)
    better = zlib.Z_HUFFMAN_ONLY if len(plain) <= len(matched) else zlib.Z_DEFAULT_STRATEGY
    # To look for repetitions takes a hundred times as long, and codes of weights have none.
    return min(plain, matched, key=len) if len(content) <= _SAMPLE else _press(content, better)


def _press(content: bytes, strategy: int) -> bytes:
    press = zlib.compressobj(6, zlib.DEFLATED, _RAW, 9, strategy)
    return press.compress(content) + press.flush()


def inflated(content: bytes, size: int) -> bytes:
    """The `size` bytes that were deflated; never more than these are made, whatever the content claims.

    Raises:
        WeightsError: the content is damaged.
    """
    press = zlib.decompressobj(_RAW)
    try:
        made = press.decompress(content, size + 1)
    except zlib.error as error:
        raise WeightsError(f"A part of the file cannot be unpacked ({error}). The file is damaged.") from error
    if len(made) != size or not press.eof or press.unused_data:
        raise WeightsError(f"A part of the file unpacks to another size than {size} bytes. The file is damaged.")
    return made
