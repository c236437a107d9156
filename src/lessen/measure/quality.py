"""Every figure of quality that outputs, labels and a teacher's outputs allow, from one pass over the examples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from lessen.core.estimate import Estimate
from lessen.measure.evaluate import Outputs
from lessen.tasks.calibration import BINS, calibration_error
from lessen.tasks.classification import accuracy, nll
from lessen.tasks.fidelity import accuracy_change, agreement, kl_to_teacher
from lessen.tasks.regression import mean_squared_error


@dataclass(frozen=True)
class Figure:
    """One figure of quality.

    Args:
        name: Which, as in a record: "accuracy", "nll" ...
        estimate: Its value and interval.
        unit: Its unit.
        settings: What else belongs to it.
    """

    name: str
    estimate: Estimate
    unit: str
    settings: dict[str, Any] = field(default_factory=dict)


def quality(told: Outputs, taught: Outputs | None = None, *, classes: bool, seed: int = 0) -> Iterator[Figure]:
    """The figures of a network from what it said, and from what its teacher said to the same examples.

    Args:
        told: Outputs and labels; without labels there is only the closeness to the teacher.
        taught: The teacher's outputs to the same examples, or None.
        classes: Whether outputs are logits of classes; otherwise they are numbers.
        seed: For resampling.

    Raises:
        ShapeError, DataError: outputs and labels do not fit together.
    """
    if not classes:
        if told.labels is not None:
            yield Figure("mean_squared_error", mean_squared_error(told.values, told.labels), "1")
        return
    if told.labels is not None:
        yield Figure("accuracy", accuracy(told.values, told.labels), "%")
        yield Figure("nll", nll(told.values, told.labels), "nat")
        error = calibration_error(told.values, told.labels, seed=seed)
        yield Figure("calibration_error", error, "%", {"bins": BINS})
    if taught is not None:
        yield Figure("agreement", agreement(told.values, taught.values), "%")
        yield Figure("kl_to_teacher", kl_to_teacher(told.values, taught.values), "nat")
        if told.labels is not None:
            change = accuracy_change(told.values, taught.values, told.labels)
            yield Figure("accuracy_change", change, "points", {"reference": "teacher"})
