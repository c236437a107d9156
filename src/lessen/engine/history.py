"""What a run says when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lessen.core.task import Task


@dataclass
class History:
    """What happened.

    Args:
        steps: Optimizer steps that were made, over all stages, in this call.
        validations: One entry a look at the validation split, as in the log.
        warnings: What a person must know, as in the log: a stage that ended no better than it began, a restart.
        last: The last logged step, as in the log, or None.
        folder: Where the log and the checkpoints are, or None.
        task: The task of the data, or None.
    """

    steps: int = 0
    validations: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] | None = None
    folder: Path | None = None
    task: Task | None = None

    def best(self, node: str, figure: str | None = None) -> float | None:
        """The best value of a validation figure of a node; the look before the first step counts as well.

        Args:
            node: Its name.
            figure: A metric of the task, or "loss"; None: the first metric of the task.
        """
        metrics = () if self.task is None else self.task.metrics
        name = figure or (metrics[0].name if metrics else "loss")
        values = [row["figures"][node][name] for row in self.validations if name in row["figures"].get(node, {})]
        if not values:
            return None
        higher = any(metric.higher_is_better for metric in metrics if metric.name == name)
        return float(max(values) if higher else min(values))
