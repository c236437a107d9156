"""Intervals at 95 %: of a share, of a mean, of a median, and of anything else by resampling.

A figure without its spread is a rumour. Each interval here is the textbook one for its kind of figure:

* a share of successes: Wilson, Probable inference, the law of succession, and statistical inference, JASA 1927;
* a mean: the normal approximation, mean plus or minus 1.96 standard errors;
* a median: order statistics, exact for any distribution (David & Nagaraja, Order Statistics, section 7.1);
* anything else: the basic bootstrap (Davison & Hinkley, Bootstrap Methods and their Application, section 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lessen.core.errors import DataError
from lessen.core.estimate import Estimate
from lessen.core.seeds import generator

Z = 1.959963984540054
"""The 97.5 % point of the normal distribution."""


def wilson(successes: int, trials: int) -> Estimate:
    """A share of successes with its Wilson score interval; stays inside [0, 1] and is not empty at 0 or 1.

    >>> wilson(9, 10)
    Estimate(value=0.9, low=0.5958..., high=0.9821...)

    Raises:
        DataError: there are no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise DataError(
            f"Got {successes} successes in {trials} trials; expected at least one trial and no more successes."
        )
    share = successes / trials
    scale = 1 + Z**2 / trials
    centre = (share + Z**2 / (2 * trials)) / scale
    half = Z / scale * math.sqrt(share * (1 - share) / trials + Z**2 / (4 * trials**2))
    return Estimate(share, min(max(0.0, centre - half), share), max(min(1.0, centre + half), share))


def mean_with_interval(values_N: Tensor) -> Estimate:
    """The mean of one number an example, plus or minus 1.96 standard errors; no interval for a single example."""
    values = values_N.double()
    if len(values) == 0:
        raise DataError("There are no examples to average over; expected at least one.")
    value = float(values.mean())
    if len(values) == 1:
        return Estimate(value)
    half = Z * float(values.std()) / math.sqrt(len(values))
    return Estimate(value, value - half, value + half)


def median_with_interval(values: NDArray[np.float64]) -> Estimate:
    """The median with the narrowest symmetric pair of order statistics that covers it at least 95 % of the time.

    Exact for independent values of any distribution. With fewer than six values no pair covers 95 %, and the
    interval is left out.

    >>> median_with_interval(np.arange(1.0, 12.0))
    Estimate(value=6.0, low=2.0, high=10.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    count = len(ordered)
    if count == 0:
        raise DataError("There are no values to take the median of; expected at least one.")
    value = float(np.median(ordered))
    rank, outside = 0, 0.0
    # The chance that the median lies below the rank-th smallest value is that of fewer than `rank` heads in `count`.
    while rank < count // 2 and outside + math.comb(count, rank) / 2**count <= 0.025:
        outside += math.comb(count, rank) / 2**count
        rank += 1
    if rank == 0:
        return Estimate(value)
    return Estimate(value, float(ordered[rank - 1]), float(ordered[count - rank]))


def bootstrap(figure: Callable[[Tensor], float], count: int, *, draws: int = 200, seed: int = 0) -> Estimate:
    """A figure of `count` examples with its basic bootstrap interval, widened to hold the figure itself.

    The basic interval mirrors the resampled figures around the value, so a figure that resampling inflates (a
    calibration error is one) is not reported as larger than it is. Resamples for which the figure is not defined are
    left out; there is no interval if they are more than half.

    Args:
        figure: From the indices of the examples, shape (count,), int64, to the figure.
        count: How many examples there are.
        draws: How often to resample.
        seed: Of the resampling.
    """
    value = figure(torch.arange(count))
    source = generator(seed, "bootstrap")
    again = np.array([figure(torch.randint(count, (count,), generator=source)) for _ in range(draws)])
    again = again[np.isfinite(again)]
    if not math.isfinite(value) or len(again) < draws / 2:
        return Estimate(value)
    low, high = 2 * value - np.quantile(again, 0.975), 2 * value - np.quantile(again, 0.025)
    return Estimate(value, min(float(low), value), max(float(high), value))
