"""Several taps per side: checked together before they are used together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lessen.core.errors import ShapeError
from lessen.surgery.values import shapes_of


def several(
    student: Any, teacher: Any, *, what: str, least: int, most: int | None = None, positions: bool = False
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The taps of both sides, after a check that they fit; see `check_shapes`."""
    check_shapes(shapes_of(student), shapes_of(teacher), what=what, least=least, most=most, positions=positions)
    return student, teacher


def check_shapes(
    student: Any, teacher: Any, *, what: str, least: int, most: int | None = None, positions: bool = False
) -> None:
    """Refuse the shapes of taps that cannot be compared tap by tap, channel by channel.

    Args:
        student: A tuple of shapes of maps (N, C, H, W) or tokens (N, P, C).
        teacher: A tuple of as many, with as many channels at each.
        what: Who asks, for the error.
        least: How many taps per side it needs.
        most: How many it can use; None: any number.
        positions: Whether the taps of one side must have as many positions, unless all are maps.

    Raises:
        ShapeError: they do not fit; the text names all shapes.
    """
    shown = f"but the student has {_shown(student)} and the teacher {_shown(teacher)}"
    wanted = f"{least} taps per side" if most == least else f"{least} taps per side or more"
    sides = (student, teacher)
    if not all(side and isinstance(side[0], tuple) for side in sides):
        raise ShapeError(f"{what} needs {wanted}, {shown}. Name them, as tap=taps('layer1', 'layer2').")
    if len(student) != len(teacher) or len(student) < least or (most is not None and len(student) > most):
        raise ShapeError(f"{what} needs {wanted}, as many on both, {shown}. Name others.")
    every = [*student, *teacher]
    if any(len(shape) not in (3, 4) or shape[0] != every[0][0] for shape in every):
        raise ShapeError(
            f"{what} needs maps (N, C, H, W) or tokens (N, P, C) of the same examples, {shown}. Tap others."
        )
    if any(channels_of(a) != channels_of(b) for a, b in zip(student, teacher, strict=True)):
        raise ShapeError(
            f"{what} needs as many channels at each tap of both sides, {shown}. Put bridge=ChannelBridge() or "
            "WidthBridge() on the edge, or tap others."
        )
    for side in sides:
        counts = {shape[1] if len(shape) == 3 else shape[2] * shape[3] for shape in side}
        if positions and len(counts) > 1 and not all(len(shape) == 4 for shape in side):
            raise ShapeError(f"{what} needs as many positions at each tap of one side, {shown}. Tap others.")


def channels_of(shape: Sequence[int]) -> int:
    """The channels of maps (N, C, H, W) or tokens (N, P, C)."""
    return shape[1] if len(shape) == 4 else shape[2]


def _shown(side: Any) -> str:
    return ", ".join(map(str, side)) if side and isinstance(side[0], tuple) else str(side)
