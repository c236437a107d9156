"""Metrics made of simple parts: means, shares, and anything else by resampling.

Shapes: N examples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lessen.core.errors import SettingError
from lessen.core.estimate import Estimate
from lessen.core.task import Metric, Rows
from lessen.functional.intervals import bootstrap, mean_with_interval, wilson
from lessen.tasks.classification import percent
from lessen.tasks.fidelity import paired_shares

DRAWS = 200
"""How often examples are resampled for an interval."""


def mean_metric(
    name: str, unit: str, of: Callable[[Rows], Tensor], *, higher_is_better: bool, **settings: Any
) -> Metric:
    """The mean of one number for each example, with its normal interval; changes are of the differences.

    Args:
        name: As in records.
        unit: Of the number.
        of: From rows to the numbers, shape (N,).
        higher_is_better: Its direction.
        settings: What else belongs to the figure.
    """
    return Metric(
        name=name,
        unit=unit,
        higher_is_better=higher_is_better,
        value=lambda rows: float(of(rows).double().mean()),
        estimate=lambda rows: mean_with_interval(of(rows)),
        change=lambda rows, reference: mean_with_interval(of(rows).double() - of(reference).double()),
        settings=settings,
    )


def share_metric(name: str, of: Callable[[Rows], Tensor], **settings: Any) -> Metric:
    """The share of examples that are right, in percent, with Wilson's interval, and that of Agresti & Min for changes.

    Args:
        name: As in records.
        of: From rows to what is right, shape (N,), bool.
        settings: What else belongs to the figure.
    """
    return Metric(
        name=name,
        unit="%",
        higher_is_better=True,
        value=lambda rows: 100 * float(of(rows).double().mean()),
        estimate=lambda rows: percent(wilson(int(of(rows).sum()), len(of(rows)))),
        change=lambda rows, reference: percent(paired_shares(of(rows), of(reference))),
        settings=settings,
    )


def resampled_metric(
    name: str, unit: str, of: Callable[[Rows], float], *, higher_is_better: bool, draws: int = DRAWS, **settings: Any
) -> Metric:
    """Any figure of all rows together, with intervals by resampling the examples.

    Args:
        name: As in records.
        unit: Of the figure.
        of: From rows to the figure; NaN where it is not defined.
        higher_is_better: Its direction.
        draws: How often to resample.
        settings: What else belongs to the figure.
    """

    def estimate(rows: Rows) -> Estimate:
        return bootstrap(lambda index_N: of(_chosen(rows, index_N)), _count(rows), draws=draws)

    def change(rows: Rows, reference: Rows) -> Estimate:
        def difference(index_N: Tensor) -> float:
            return of(_chosen(rows, index_N)) - of(_chosen(reference, index_N))

        return bootstrap(difference, _count(rows), draws=draws)

    return Metric(
        name=name, unit=unit, higher_is_better=higher_is_better, value=of, estimate=estimate, change=change,
        settings=settings,
    )  # fmt: skip


def own_metric(function: Callable[[Tensor, Tensor], Any], *, name: str, higher_is_better: bool, unit: str) -> Metric:
    """A metric from the user's own function of all outputs and labels of a split.

    Args:
        function: `(outputs, labels) -> number`, examples along axis 0.
        name: As in records.
        higher_is_better: Its direction.
        unit: Of the number; "%" if it is a share in percent.
    """

    def of(rows: Rows) -> float:
        found = function(rows["outputs"], rows["labels"])
        try:
            value = float(found)
        except (TypeError, ValueError, RuntimeError) as error:
            shown = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise SettingError(
                f"The metric {name} must return one number for all outputs and labels, but it returned {shown}."
            ) from error
        return value if math.isfinite(value) else math.nan

    return resampled_metric(name, unit, of, higher_is_better=higher_is_better, draws=50)


def _chosen(rows: Rows, index_N: Tensor) -> Rows:
    return {name: value.index_select(0, index_N) for name, value in rows.items()}


def _count(rows: Rows) -> int:
    return len(next(iter(rows.values())))


def ratio(above: Tensor, below: Tensor) -> float:
    """The mean of ratios over those with a denominator above 0; NaN if there are none."""
    some = below > 0
    return float((above[some].double() / below[some].double()).mean()) if bool(some.any()) else math.nan


def no_rows(count: int) -> Tensor:
    """An empty column for `count` examples."""
    return torch.zeros(count, 0)
