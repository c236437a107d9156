"""Where the values of a sparse tensor stand: as one bit a place, or as the distances between them.

Han, Mao & Dally, Deep Compression, ICLR 2016, arXiv:1510.00149, section 2: a distance takes a few bits, and one that
does not fit is written as several, each but the last the largest number there is.

Shapes: n places, k of them taken.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from lessen.core.errors import WeightsError
from lessen.surgery.packing.integers import Array, check_count, pack_bits, read_integers, width_of, write_integers
from lessen.surgery.packing.stream import Sink, Source


def write_positions(taken_n: Array, sink: Sink, *, coded: bool = True) -> dict[str, Any]:
    """Write which places are taken, in the shorter form.

    Args:
        taken_n: Boolean, shape (n,).
        sink: Where to.
        coded: Whether frequent distances may take fewer bits.
    """
    count = int(taken_n.sum())
    bitmap, gaps = Sink(), Sink()
    bits: dict[str, Any] = {
        "bitmap": write_integers(np.frombuffer(pack_bits(taken_n, 1), np.uint8), bitmap, coded=coded)
    }
    steps_k = np.diff(np.flatnonzero(taken_n), prepend=-1) - 1
    width = 8 if coded else best_width(steps_k)
    symbols = split(steps_k, width)
    apart: dict[str, Any] = {
        "gaps": write_integers(symbols, gaps, coded=coded),
        "width": width,
        "symbols": len(symbols),
    }
    short = min((bits, bitmap), (apart, gaps), key=lambda pair: len(pair[1].content()))
    sink.put(short[1].content())
    return {**short[0], "count": count}


def read_positions(form: dict[str, Any], source: Source, count: int) -> Array:
    """Which of `count` places are taken: boolean, shape (n,).

    Raises:
        WeightsError: the file is damaged.
    """
    taken_n = np.zeros(count, bool)
    if "bitmap" in form:
        packed = read_integers(form["bitmap"], source, (count + 7) // 8).astype(np.uint8)
        taken_n[:] = np.unpackbits(packed, count=count, bitorder="little")
    else:
        # A distance takes one symbol, and one more for each time that it does not fit.
        check_count("symbols", form["symbols"], 2 * count)
        check_count("bits of a distance", form["width"], 64)
        symbols = read_integers(form["gaps"], source, form["symbols"])
        places = np.cumsum(joined(symbols, form["width"]) + 1) - 1
        if len(places) and not (int(places.min()) >= 0 and int(places.max()) < count):
            raise WeightsError(f"A value stands at place {int(places.max())} of {count}. The file is damaged.")
        taken_n[places] = True
    if int(taken_n.sum()) != form["count"]:
        raise WeightsError(f"{int(taken_n.sum())} places are taken, not {form['count']}. The file is damaged.")
    return taken_n


def split(steps_k: Array, width: int) -> Array:
    """Distances as numbers of `width` bits: one that does not fit becomes several.

    >>> split(np.array([2, 7, 0]), 2).tolist()
    [2, 3, 3, 1, 0]
    """
    largest = (1 << width) - 1
    more_k = steps_k // largest
    symbols = np.full(len(steps_k) + int(more_k.sum()), largest, np.int64)
    symbols[np.cumsum(more_k + 1) - 1] = steps_k - more_k * largest
    return symbols


def joined(symbols: Array, width: int) -> Array:
    """The distances that `split` took apart, shape (k,).

    >>> joined(np.array([2, 3, 3, 1, 0]), 2).tolist()
    [2, 7, 0]
    """
    whole, ends = symbols.astype(np.int64), symbols != (1 << width) - 1
    return np.diff(np.cumsum(whole)[ends], prepend=0)


def best_width(steps_k: Array) -> int:
    """The width at which `split` takes the fewest bits."""
    widest = max(1, width_of(int(steps_k.max(initial=0)) + 1))
    return min(range(1, widest + 1), key=lambda width: width * (len(steps_k) + int((steps_k // (2**width - 1)).sum())))
