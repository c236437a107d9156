"""The share of channels to keep at which a network has so many parameters, or multiply-adds, left."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
        raise _out_of_reach(target, least, what)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) <= target else (low, middle)
    return low


def share_by_clock(target: float, ratios: Callable[[Sequence[float]], Sequence[float]], *, count: int = 17) -> float:
    """The largest of some shares at which a measured ratio is at most `target`; twice, the second time between two.

    Args:
        target: The ratio that is asked for, in (0, 1].
        ratios: What is left of the time at each of some shares, all measured together.
        count: How many shares are looked at the first time.

    Raises:
        PlanError: even the smallest share takes longer; the text says how far one can go.
    """
    coarse = [i / (count - 1) for i in range(count - 1)]
    found = ratios(coarse)
    if min(found) > target:
        raise _out_of_reach(target, min(found), "time")
    best = max(share for share, ratio in zip(coarse, found, strict=True) if ratio <= target)
    fine = [best + i / 8 / (count - 1) for i in range(1, 8)]
    return max([best, *(share for share, ratio in zip(fine, ratios(fine), strict=True) if ratio <= target)])


def _out_of_reach(target: float, least: float, what: str) -> PlanError:
    return PlanError(
        f"This network cannot be pruned to {target:.4g} of its {what}: with as little as possible left in every "
        f"group that can be pruned, {least:.4f} of them remain. Ask for {-(-least * 1000 // 1) / 1000:.3f} or "
        "more, or let more of the network be pruned (where, exclude, floor)."
    )
