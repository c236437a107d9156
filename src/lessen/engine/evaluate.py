"""How good learning networks are on the validation split, to choose the best epoch by. Reports are made by `measure`.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.data import Data, batches
from lessen.graph.flow import Flow
from lessen.graph.units import BranchUnit, NetworkUnit, Now
from lessen.surgery.taps import Tap

Figures = dict[str, dict[str, float]]


@torch.no_grad()
def evaluate(flow: Flow, data: Data, device: torch.device, *, size: int = 256) -> Figures:
    """Figures of every learning node on the validation split, in eval mode.

    With class indices as labels: `accuracy` (%) and `nll` (nat); with numbers to predict: `mean_squared_error`; without
    labels, and with others (tokens, probabilities of classes): `loss`, the mean of what arrives at the node at the end
    of the stage.
    """
    flow.set_mode(training=False)
    learners = [n for n, u in flow.units.items() if isinstance(u, NetworkUnit | BranchUnit) and u.learns]
    wanted = {of for n in learners if isinstance(u := flow.units[n], BranchUnit) for of in [u.of]} | set(learners)
    sums: dict[str, dict[str, float]] = {name: {} for name in learners}
    for batch in batches(data.validation, size=size):
        batch = batch.to(device)
        part: Figures = {}
        if batch.labels is not None:
            now = Now(batch=batch, training=False)
            for name, unit in flow.units.items():
                if name in wanted:
                    unit.compute(now)
            whole = {name: now.values[name].get(Tap()) for name in learners}  # None: no output is named as the one
            found = {n: _sums(value, batch.labels, data) for n, value in whole.items() if value is not None}
            part = {name: figures for name, figures in found.items() if figures}
        if len(part) < len(learners):
            passed = flow(batch, 1.0, training=False)
            part |= {n: {"loss": float(v) * len(batch)} for n, v in passed.targets.items() if n not in part}
        for name, figures in part.items():
            for figure, value in figures.items():
                sums.setdefault(name, {})[figure] = sums.get(name, {}).get(figure, 0.0) + value
    flow.forget()
    count = len(data.validation)
    return {name: {figure: value / count for figure, value in found.items()} for name, found in sums.items() if found}


def better(new: Mapping[str, float], old: Mapping[str, float] | None) -> bool:
    """Whether figures are better: higher accuracy, ties broken by the likelihood; else a lower error or loss."""
    return old is None or _rank(new) > _rank(old)


def _rank(figures: Mapping[str, float]) -> tuple[float, float]:
    if "accuracy" in figures:
        return figures["accuracy"], -figures["nll"]
    return -figures.get("mean_squared_error", figures.get("loss", float("inf"))), 0.0


def _sums(output: Tensor, labels: Tensor, data: Data) -> dict[str, float]:
    output = output.float()
    if data.classes is not None and not labels.is_floating_point() and output.ndim == labels.ndim + 1:
        positions = max(1, labels[0].numel())
        right = (output.argmax(1) == labels).sum() * 100 / positions
        nll = F.cross_entropy(output, labels, reduction="sum") / positions
        return {"accuracy": float(right), "nll": float(nll)}
    if data.classes is None and labels.is_floating_point() and output.numel() == labels.numel():
        error = (output.reshape(labels.shape) - labels).square().flatten(1).mean(1) if labels.ndim > 1 else None
        flat = (output.reshape(-1) - labels.reshape(-1)).square() if error is None else error
        return {"mean_squared_error": float(flat.sum())}
    return {}


def state_of(module: nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
