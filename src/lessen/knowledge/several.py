"""Several taps a side: checked together before they are used together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from lessen.core.errors import ShapeError
from lessen.functional.channels import by_channel
from lessen.surgery.values import leaves, shapes_of

Sides = tuple[tuple[Tensor, ...], tuple[Tensor, ...]]


def several(student: Any, teacher: Any, *, what: str, least: int, most: int | None, same: Sequence[str]) -> Sides:
    """The taps of both sides, after a check that they fit.

    Args:
        student: A tuple of maps (N, C, H, W) or tokens (N, P, C).
        teacher: A tuple of as many.
        what: Who asks, for the error.
        least: How many taps a side it needs.
        most: How many it can use; None: any number.
        same: Whether "channels" of each tap must be as many on both sides, and whether "positions" of the taps of one
            side must be.

    Raises:
        ShapeError: they do not fit; the text names all shapes.
    """
    wanted = f"{least} taps a side" if most == least else f"{least} taps or more a side"
    if not isinstance(student, tuple) or not isinstance(teacher, tuple):
        raise _error(student, teacher, f"{what} compares layers and needs {wanted}", "as tap=taps('layer1', 'layer2')")
    if len(student) != len(teacher) or len(student) < least or (most is not None and len(student) > most):
        raise _error(student, teacher, f"{what} needs {wanted}, as many on both", "name as many taps")
    every = [*student, *teacher]
    if not all(isinstance(tap, Tensor) and tap.ndim in (3, 4) and len(tap) == len(every[0]) for tap in every):
        raise _error(
            student, teacher, f"{what} needs maps (N, C, H, W) or tokens (N, P, C) of the same examples", "tap others"
        )
    counts = [[tuple(by_channel(tap[:1]).shape[1:]) for tap in side] for side in (student, teacher)]
    if "channels" in same and any(a[0] != b[0] for a, b in zip(*counts, strict=True)):
        raise _error(
            student, teacher, f"{what} needs as many channels at each tap on both sides", "bridge=ChannelBridge()"
        )
    for taps, made in zip((student, teacher), counts, strict=True):
        maps = all(tap.ndim == 4 for tap in taps)
        if "positions" in same and not maps and len({count[1] for count in made}) > 1:
            raise _error(student, teacher, f"{what} needs as many positions at each tap of one side", "tap others")
    return student, teacher


def _error(student: Any, teacher: Any, what: str, advice: str) -> ShapeError:
    shown = [", ".join(map(str, map(shapes_of, leaves(side)))) for side in (student, teacher)]
    return ShapeError(f"{what}, but the student has {shown[0]} and the teacher {shown[1]}. Try: {advice}.")
