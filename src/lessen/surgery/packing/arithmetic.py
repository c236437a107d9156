"""How many bytes a tensor will take, before it is written.

Shapes: none; p is the share that is kept, q = 1 - p.
"""

from __future__ import annotations

import math


def packed_bytes(
    count: int, *, bits: int, kept: float = 1.0, coded: bool = False, groups: int = 0, group_bits: int = 0
) -> int:
    """Bytes of the codes of a tensor, of the places of those that are kept, and of what each group of them shares.

    Codes are taken to be all equally frequent and places to be drawn at random: then the file has this many bytes to
    within a few per cent, beside its header. Codes that are not equally frequent take fewer.

    Args:
        count: Numbers in the tensor.
        bits: Of a code.
        kept: The share of the numbers that is not zero.
        coded: Whether places are written as a Huffman code of distances, or else with all distances of one width.
        groups: How many groups (rows, blocks of a row) have numbers of their own.
        group_bits: Bits of the numbers of a group: its step, its code of zero.

    >>> packed_bytes(1000, bits=4), packed_bytes(1000, bits=4, groups=10, group_bits=16)
    (500, 520)
    >>> packed_bytes(8000, bits=4, kept=0.1), packed_bytes(8000, bits=4, kept=0.5)
    (904, 3000)
    """
    many = round(count * kept)
    places = 0.0 if many == count else min(count, _coded_bits(many, kept) if coded else _distance_bits(many, kept))
    return math.ceil(many * bits / 8) + math.ceil(places / 8) + math.ceil(groups * group_bits / 8)


def _distance_bits(many: int, kept: float) -> float:
    """Distances of the best width: one of at least 2^width - 1 takes several (a distance is geometric)."""
    if not 0 < kept < 1:
        return 0.0
    # A width of 16 bits holds any distance that is worth the search.
    sizes: list[float] = [width * many / (1 - (1 - kept) ** (2**width - 1)) for width in range(1, 17)]
    return min(sizes)


def _coded_bits(many: int, kept: float) -> float:
    """The entropy of the places."""
    if not 0 < kept < 1:
        return 0.0
    return many / kept * -(kept * math.log2(kept) + (1 - kept) * math.log2(1 - kept))
