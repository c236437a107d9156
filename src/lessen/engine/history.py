"""What a run says when it is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from lessen.core.lines import read_sound_lines
from lessen.core.task import Task
from lessen.report import log_frame, shown_looks


@dataclass(repr=False)
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

    def __repr__(self) -> str:
        best = {node: dict(list(found.items())[:1]) for node, found in self._bests().items()}
        said = f", {len(self.warnings)} warnings" if self.warnings else ""
        folder = None if self.folder is None else str(self.folder)
        return f"History(steps={self.steps}, best={best}{said}, folder={folder!r})"

    def _repr_html_(self) -> str:
        warned = "".join(f"<p>! {escape(str(row['says']))}</p>" for row in self.warnings)
        return warned + shown_looks(self.validations, self._bests())

    def _bests(self) -> dict[str, dict[str, float]]:
        """The best of each figure of each network."""
        names = {node: list(found) for row in self.validations for node, found in row["figures"].items()}
        return {
            node: {name: value for name in found if (value := self.best(node, name)) is not None}
            for node, found in names.items()
        }

    def frame(self) -> Any:
        """The log as a pandas DataFrame, one line a step or a look; without a folder, the looks alone.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        rows = self.validations
        if self.folder is not None and (self.folder / "log.jsonl").is_file():
            rows = read_sound_lines(self.folder / "log.jsonl")
        return log_frame(rows)

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
