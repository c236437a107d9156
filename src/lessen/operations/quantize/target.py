"""Which processors a network in integers is made for, and how many bits its weights then take.

x86 without VNNI or AMX multiplies 8-bit numbers in pairs and adds each pair in 16 bits (`vpmaddubsw`): 2 x 255 x 127 is
more than 16 bits hold, so a sum is cut off without a word. With weights of 7 bits, 2 x 255 x 63, it fits. Kernels of
depthwise convolutions have no pairs to add: they multiply in 32 bits on every processor, and take 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from lessen.core.machine import machine, saturates_int8

Target = Literal["any", "this", "vnni"]
SAFE = 7
"""The most bits of a weight whose products fit on every processor."""
FITS = "weights of 7 bits, and of 8 in depthwise convolutions, add up correctly on every processor"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What a target comes to.

    Args:
        target: "any" processor, or those that add products in 32 bits, "vnni".
        bits: Of a weight.
        why: The reason, for people.
    """

    target: Literal["any", "vnni"]
    bits: int
    why: str


def chosen(target: Target) -> Chosen:
    """The bits of weights for a target; only "this" looks at the machine.

    >>> chosen("any").bits, chosen("vnni").bits
    (7, 8)
    """
    if target == "any":
        return Chosen(target="any", bits=SAFE, why=FITS)
    if target == "vnni":
        return Chosen(target="vnni", bits=8, why="8-bit weights were asked for, with target='vnni'")
    processor = machine()["processor"]
    if saturates_int8():
        return Chosen(target="any", bits=SAFE, why=f"this processor ({processor}) adds products in 16 bits")
    return Chosen(target="vnni", bits=8, why=f"this processor ({processor}) adds products in 32 bits")


def named(bits: int) -> Chosen:
    """What a number of bits that somebody chose comes to."""
    if bits > SAFE:
        return Chosen(target="vnni", bits=bits, why=f"{bits}-bit weights were asked for")
    return Chosen(target="any", bits=bits, why=f"{bits}-bit weights add up correctly on every processor")


def adds_no_pairs(module: nn.Module) -> bool:
    """Whether a layer is a depthwise convolution, whose kernels add products one by one."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def row(target: Literal["any", "vnni"], why: str) -> dict[str, str]:
    """What a plan says of its target."""
    needs = {"any": "every processor", "vnni": "processors with VNNI or AMX; others may cut sums off"}[target]
    return {"module": "", "edit": "made for", "before": why, "after": needs}


def stored_bits(bits: int) -> int:
    """The bits that a weight of a layer takes in an ONNX or OpenVINO file: 4 where they are enough, else 8."""
    return 4 if bits <= 4 else 8


def said(bits: int) -> str:
    """The width of weights, for people.

    >>> said(8), said(7)
    ('8-bit weights', '7-bit weights (8 in a file)')
    """
    stored = stored_bits(bits)
    return f"{bits}-bit weights" + ("" if stored == bits else f" ({stored} in a file)")
