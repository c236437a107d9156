"""What a task is: what outputs and labels mean, the loss on labels, and the figures by which networks are judged.

Shapes: N examples; what else outputs and labels have depends on the task.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lessen.core.errors import DataError
from lessen.core.estimate import Estimate

Rows = dict[str, Tensor]
"""What metrics need to know of each example: named tensors with examples along axis 0."""


class Meaning(enum.Enum):
    """What the outputs of a network are, and so how two networks are compared on them."""

    CLASSES = "classes"
    """Logits of classes of which one is right: probabilities are their softmax along the class axis."""
    INDEPENDENT = "independent"
    """Logits that are each right or wrong by themselves: probabilities are their sigmoid."""
    NUMBERS = "numbers"
    """The predicted values themselves, or features."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A figure of quality, computed from the rows of a split.

    Args:
        name: As in records: "accuracy", "mean_iou" ...
        unit: "%" for shares, "nat", or "1".
        higher_is_better: Its direction.
        value: From rows to the figure.
        estimate: The same with its interval.
        change: From the rows of a network and of a reference, for the same examples, to the paired difference.
        settings: What else belongs to the figure.
    """

    name: str
    unit: str
    higher_is_better: bool
    value: Callable[[Rows], float]
    estimate: Callable[[Rows], Estimate]
    change: Callable[[Rows, Rows], Estimate]
    settings: dict[str, Any] = field(default_factory=dict)

    def loss(self, before: float, after: float) -> float:
        """How much worse `after` is: points of a share in percent, percent of the value before for all other units."""
        worse = before - after if self.higher_is_better else after - before
        return worse if self.unit == "%" else 100 * worse / max(abs(before), 1e-12)


@runtime_checkable
class Task(Protocol):
    """What is asked of a network. `lessen.tasks` has the usual ones; any object with these members is one."""

    @property
    def name(self) -> str:
        """In a word, as in records and reports."""

    @property
    def meaning(self) -> Meaning:
        """What outputs are."""

    @property
    def class_axis(self) -> int:
        """The axis of outputs along which classes lie, where `meaning` is CLASSES."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The figures; the first is the one that networks are judged by, the second breaks ties."""

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError, DataError: they do not belong to this task; the text names both.
        """

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What learning from labels minimises: one loss for each example, shape (N,)."""

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """What the metrics need to know of these examples."""


def rank(task: Task, figures: dict[str, float]) -> tuple[float, ...]:
    """What a larger value of means a better network: the task's first two metrics, as far as they are known."""
    found = []
    for metric in task.metrics[:2]:
        if metric.name in figures:
            found.append(figures[metric.name] if metric.higher_is_better else -figures[metric.name])
    return tuple(found)


def joined(parts: Sequence[Rows]) -> Rows:
    """The rows of several batches as one.

    Raises:
        DataError: there are none.
    """
    if not parts:
        raise DataError("There are no examples to judge; expected at least one.")
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
