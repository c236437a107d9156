"""Every figure of quality that outputs, labels and a teacher's outputs allow, from one pass over the examples."""

from __future__ import annotations

from collections.abc import Iterator

from lessen.core.task import Task
from lessen.measure.evaluate import Outputs
from lessen.tasks.figures import Figure, change_figure, closeness_figures, task_figures


def quality(told: Outputs, taught: Outputs | None = None, *, task: Task) -> Iterator[Figure]:
    """The figures of a network from what it said, and from what its teacher said to the same examples.

    Args:
        told: Outputs and labels; without labels there is only the closeness to the teacher.
        taught: The teacher's outputs to the same examples, or None.
        task: What outputs and labels mean.

    Raises:
        ShapeError, DataError: outputs and labels do not fit together.
    """
    if told.labels is not None and task.metrics:
        yield from task_figures(task, told.rows_of(task))
    if taught is None:
        return
    count = min(len(told.values), len(taught.values))
    yield from closeness_figures(task, told.values[:count], taught.values[:count])
    if told.labels is not None and taught.labels is not None:
        yield from change_figure(task, told.rows_of(task), taught.rows_of(task))
