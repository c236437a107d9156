"""The share of channels to keep at which a network has so many parameters, or multiply-adds, left."""

from __future__ import annotations

from collections.abc import Callable

from lessen.core.errors import PlanError


def share_for(target: float, ratio: Callable[[float], float], what: str) -> float:
    """The largest share of indices to keep at which `ratio(share)` is at most `target`.

    Args:
        target: The ratio that is asked for, in (0, 1].
        ratio: What is left of the whole at a share; it must not fall when the share grows.
        what: What the ratio is of, for people.

    Raises:
        PlanError: even the smallest share leaves more than that; the text says how far one can go.

    >>> round(share_for(0.25, lambda share: share**2, "parameters"), 6)
    0.5
    """
    low, high = 0.0, 1.0
    if ratio(high) <= target:
        return high
    least = ratio(low)
    if least > target:
        raise PlanError(
            f"This network cannot be pruned to {target:.4g} of its {what}: with as little as possible left in every "
            f"group that can be pruned, {least:.4f} of them remain. Ask for {-(-least * 1000 // 1) / 1000:.3f} or "
            "more, or let more of the network be pruned (where, exclude, floor)."
        )
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) <= target else (low, middle)
    return low
