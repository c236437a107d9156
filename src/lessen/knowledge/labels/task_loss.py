"""The loss on labels that a task asks for.

Shapes: N examples; what else outputs and labels have depends on the task.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.core.errors import SettingError
from lessen.core.task import Task
from lessen.functional.shapes import wide
from lessen.knowledge.labels.labels import CrossEntropy, Regression
from lessen.tasks.guess import guess
from lessen.tasks.quantities import Quantities
from lessen.tasks.single_label import SingleLabel


@settings
class TaskLoss:
    """Learn from labels by the loss of the task.

    Cross-entropy for one class of several (also at every position, and for tokens), binary cross-entropy for labels
    that are each true or false, squared error for numbers. A task of your own supplies its `loss`.

    Args:
        smoothing: For one class of several: the share of the target that is spread evenly over all classes.
    """

    smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0

    card: ClassVar[Card] = Card(
        row="knowledge / labels",
        paper="folklore",
        says="Uses the usual loss of the task.",
        costs="Nothing in the shipped model.",
        fails_when="The task was guessed wrong: name it (task=).",
    )

    def for_task(self, task: Task | None, student: Any, teacher: Any) -> Any:
        """The objective for a task, after a look at output and labels; guessed from them if nothing is known.

        Raises:
            SettingError: smoothing is set, and the task has several right classes or none.
            ShapeError, DataError: output and labels are not of the task, or no task fits.
        """
        if task is None:
            task = guess(tuple(student.shape), teacher).task
        task.check(student, teacher)
        return self.loss_of(task)

    def loss_of(self, task: Task) -> Any:
        """The objective for a task.

        Raises:
            SettingError: smoothing is set, and the task has several right classes or none.
        """
        inner = getattr(task, "task", task)
        if isinstance(inner, SingleLabel):
            return CrossEntropy(smoothing=self.smoothing)
        if self.smoothing:
            raise SettingError(
                f"TaskLoss: smoothing={self.smoothing} is for one class of several, but the task is {task.name}."
            )
        return Regression() if isinstance(inner, Quantities) else OnTask(task)

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        loss: Tensor = self.for_task(None, student, teacher)(student, teacher)
        return loss


@dataclass(frozen=True)
class OnTask:
    """The loss of a task as an objective.

    Args:
        task: The task.
    """

    task: Task

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return self.task.loss(wide(student), teacher).to(student.dtype)
