"""A task that is judged by the user's own metric.

Shapes: N examples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from lessen.core.errors import SettingError
from lessen.core.task import Meaning, Metric, Rows, Task
from lessen.tasks.metrics import own_metric

Own = Callable[[Tensor, Tensor], Any]


@dataclass(frozen=True)
class Judged:
    """A task whose networks are judged by a function of the user's: best epoch, targets, report.

    Args:
        task: The task: its loss, its meaning, and its metrics, which follow.
        function: `(outputs, labels) -> number` for a whole split, examples along axis 0.
        higher_is_better: The direction of the number.
        title: What to call it in records; None: the name of the function.
        unit: Of the number; "%" if it is a share in percent.
    """

    task: Task
    function: Own
    higher_is_better: bool
    title: str | None = None
    unit: str = "1"

    @property
    def name(self) -> str:
        """That of the task."""
        return self.task.name

    @property
    def meaning(self) -> Meaning:
        """That of the task."""
        return self.task.meaning

    @property
    def class_axis(self) -> int:
        """That of the task."""
        return self.task.class_axis

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """The user's metric first."""
        title = self.title or getattr(self.function, "__name__", type(self.function).__name__).strip("<>")
        own = own_metric(self.function, name=title, higher_is_better=self.higher_is_better, unit=self.unit)
        return (own, *(metric for metric in self.task.metrics if metric.name != title))

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """As the task does."""
        self.task.check(outputs, labels)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """As the task does."""
        return self.task.loss(outputs, labels)

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """Those of the task, and outputs and labels themselves."""
        return {**self.task.rows(outputs, labels), "outputs": outputs, "labels": labels}


def judged(task: Task, metric: Any) -> Task:
    """A task judged by `metric`: a function with its direction, as `(function, "max")`, or a `Judged`'s arguments.

    Raises:
        SettingError: the direction is missing or unknown.
    """
    if metric is None:
        return task
    if callable(metric):
        raise SettingError(
            "metric= needs the direction of the function: metric=(function, 'max') if higher is better, or "
            "metric=(function, 'min')."
        )
    if not isinstance(metric, tuple | list) or len(metric) not in (2, 3) or not callable(metric[0]):
        raise SettingError(
            f"metric is {metric!r}; expected (function, 'max') or (function, 'min'), with its name third if it has one."
        )
    directions = {"max": True, "min": False, "higher": True, "lower": False}
    if metric[1] not in directions:
        raise SettingError(f"metric has the direction {metric[1]!r}; expected 'max' or 'min'.")
    return Judged(task, metric[0], directions[metric[1]], metric[2] if len(metric) == 3 else None)
