"""How good learning networks are on the validation split, to choose the best epoch by. Reports are made by `measure`.

Shapes: N examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lessen.core.data import Data, batches
from lessen.core.errors import DataError, ShapeError
from lessen.core.task import Rows, Task, joined, rank
from lessen.graph.flow import Flow
from lessen.graph.nodes.unit import Now
from lessen.surgery.taps import Tap

Figures = dict[str, dict[str, float]]


@torch.no_grad()
def evaluate(flow: Flow, data: Data, device: torch.device, *, size: int = 256) -> Figures:
    """Figures of every learning node on the validation split, in eval mode.

    With labels and a task: its metrics. Without, and for outputs that the task does not fit: `loss`, the mean of what
    arrives at the node at the end of the stage.
    """
    flow.set_mode(training=False)
    learners = [name for name, unit in flow.units.items() if unit.learns and not flow.reads_other_data(name)]
    wanted = flow.needed(learners)
    rows: dict[str, list[Rows]] = {name: [] for name in learners if data.task is not None and data.task.metrics}
    losses = dict.fromkeys(learners, 0.0)
    broken: set[str] = set()
    for batch in batches(data.validation, size=size):
        batch = batch.to(device)
        if batch.labels is None:
            rows.clear()
        if rows:
            now = Now(batch=batch, training=False)
            for name, unit in flow.units.items():
                if name in wanted:
                    unit.compute(now)
            # None: no output is named as the one that counts.
            whole = {name: _detached(now.values[name].get(Tap())) for name in rows}
            broken |= {name for name, value in whole.items() if not _finite(value)}
            found = {name: _rows(value, batch.labels, data.task) for name, value in whole.items() if name not in broken}
            rows = {name: [*rows[name], part] for name, part in found.items() if part is not None}
        if len(rows) + len(broken) < len(learners):
            passed = flow(batch, 1.0, training=False)
            for name, loss in passed.targets.items():
                if name in losses:
                    losses[name] += float(loss) * len(batch)
            losses = {name: value for name, value in losses.items() if name in passed.targets}
    flow.forget()
    figures = {name: _figures(data.task, joined(parts)) for name, parts in rows.items() if data.task is not None}
    if data.task is not None and broken:
        figures |= {name: {data.task.metrics[0].name: math.nan} for name in broken}
    count = len(data.validation)
    figures |= {name: {"loss": value / count} for name, value in losses.items() if name not in figures}
    return {name: found for name, found in figures.items() if found}


def better(new: Mapping[str, float], old: Mapping[str, float] | None, task: Task | None) -> bool:
    """Whether figures are better by the first metric of the task, ties broken by the second; else a lower loss."""
    return old is None or _rank(new, task) > _rank(old, task)


def _rank(figures: Mapping[str, float], task: Task | None) -> tuple[float, ...]:
    if task is not None and (found := rank(task, dict(figures))):
        return found
    return (-figures.get("loss", math.inf),)


def _rows(output: object, labels: Tensor | None, task: Task | None) -> Rows | None:
    """What the metrics need of these outputs; None if they are not of this task, as features are not."""
    if labels is None or task is None or not isinstance(output, Tensor):
        return None
    try:
        return {name: value.cpu() for name, value in task.rows(output.float().cpu(), labels.cpu()).items()}
    except (ShapeError, DataError):
        return None


def _detached(output: object) -> object:
    """An output without gradient, which it has where a node takes a gradient inside its network."""
    return output.detach() if isinstance(output, Tensor) else output


def _finite(output: object) -> bool:
    return not isinstance(output, Tensor) or bool(output.isfinite().all())


def _figures(task: Task, rows: Rows) -> dict[str, float]:
    """The metrics that are defined on these examples."""
    found = {metric.name: metric.value(rows) for metric in task.metrics}
    return {name: value for name, value in found.items() if not math.isnan(value)}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
