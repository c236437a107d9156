"""Every figure of quality that a task, labels and the outputs of an original allow."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lessen.core.estimate import Estimate
from lessen.core.task import Rows, Task
from lessen.tasks.closeness import agreement_with, cosine_to, divergence_from, error_to


@dataclass(frozen=True)
class Figure:
    """One figure of quality.

    Args:
        name: Which, as in a record: "accuracy", "nll" ...
        estimate: Its value and interval.
        unit: Its unit.
        settings: What else belongs to it.
        higher_is_better: Its direction.
        headline: Whether networks are judged by it.
    """

    name: str
    estimate: Estimate
    unit: str
    settings: dict[str, Any] = field(default_factory=dict)
    higher_is_better: bool = True
    headline: bool = False

    def detail(self) -> dict[str, Any]:
        """What a record says of it, for those who read records without knowing tasks."""
        return {"higher_is_better": self.higher_is_better, **({"headline": True} if self.headline else {})}


def task_figures(task: Task, rows: Rows) -> Iterator[Figure]:
    """The metrics of a task, the headline first; those that are not defined on these examples are left out."""
    for number, metric in enumerate(task.metrics):
        estimate = metric.estimate(rows)
        if number == 0 or estimate.value == estimate.value:
            yield Figure(
                metric.name, estimate, metric.unit, dict(metric.settings), metric.higher_is_better, number == 0
            )


def change_figure(task: Task, rows: Rows, reference: Rows) -> Iterator[Figure]:
    """The paired change of the headline metric against a reference, on the same examples."""
    for metric in task.metrics[:1]:
        unit = "points" if metric.unit == "%" else metric.unit
        estimate = metric.change(rows, reference)
        yield Figure(f"{metric.name}_change", estimate, unit, {"reference": "teacher"}, metric.higher_is_better)


def closeness_figures(task: Task, student: Tensor, teacher: Tensor) -> Iterator[Figure]:
    """Agreement, divergence, cosine and squared error to an original.

    Cosine and squared error are given where nothing is decided by probabilities, or nothing is judged by labels.
    """
    meaning, axis = task.meaning, task.class_axis
    same = agreement_with(student, teacher, meaning=meaning, class_axis=axis)
    if same is not None:
        yield Figure("agreement", same, "%", headline=not task.metrics)
    divergence = divergence_from(student, teacher, meaning=meaning, class_axis=axis)
    if divergence is not None:
        yield Figure("kl_to_teacher", divergence, "nat", higher_is_better=False)
    if same is None or not task.metrics:
        yield Figure("cosine_to_teacher", cosine_to(student, teacher), "1", headline=same is None and not task.metrics)
        yield Figure("error_to_teacher", error_to(student, teacher), "1", higher_is_better=False)
