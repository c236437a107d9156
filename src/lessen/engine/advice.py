"""What to say, and what to advise, when a stage diverges or ends no better than it began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lessen.core.errors import DivergedError
from lessen.engine.trail import Trail
from lessen.graph.flow import Flow
from lessen.graph.owners import Owner
from lessen.graph.stage import Fit

SLOWER = 0.1
"""What a restart, and the advice after a divergence, multiply the learning rate by."""


def remedies(owner: Owner, fit: Fit) -> str:
    """What would make the training of a node calmer, in numbers that follow from its settings.

    >>> from lessen.graph import SGD, Cosine
    >>> calm = Fit(optimizer=SGD(rate=0.5), schedule=Cosine(), clip=None)
    >>> remedies(Owner("student", {}, calm.optimizer, calm.schedule), calm)
    'a lower rate (SGD(rate=0.05), now 0.5), clipped gradients (Fit(clip=1.0)), a warm-up (Cosine(warmup=0.1))'
    """
    rate = owner.optimizer.rate
    said = [f"a lower rate ({_with_rate(owner, rate * SLOWER)}, now {rate:.2g})"]
    if fit.clip is None:
        said.append("clipped gradients (Fit(clip=1.0))")
    elif fit.clip > 0.1:
        said.append(f"a tighter clip (Fit(clip={fit.clip * 0.1:.2g}), now {fit.clip:.2g})")
    warmup = getattr(owner.schedule, "warmup", None)
    if warmup is not None and warmup < 0.1:
        said.append(f"a warm-up ({type(owner.schedule).__name__}(warmup=0.1))")
    return ", ".join(said)


def diverged(flow: Flow, step: int, what: str, node: str, trail: Trail) -> DivergedError:
    """The error of a number that is not finite, wherever it was seen first.

    Args:
        flow: Of the stage.
        step: In which it was seen.
        what: What is not finite.
        node: Whose training it is.
        trail: What the losses did until then.
    """
    stage, owner = flow.stage, flow.owners.get(flow.root(node))
    before = "" if trail.of(node) is None else f" Before that, {trail.says(node)}."
    calmer = f"Try {remedies(owner, stage.fit)}" if owner is not None else "Lower the learning rate"
    return DivergedError(
        f"Stage {stage.name!r}, step {step}: {what} is not a finite number.{before}",
        f"{calmer}; or a lower weight of the edge; or look for NaN in the data.",
    )


def restarted(flow: Flow, error: DivergedError, *, step: int, count: int) -> dict[str, Any]:
    """What to say of a stage that diverged and goes on from an earlier state at a lower rate; for the log.

    Args:
        flow: Of the stage.
        error: How it diverged.
        step: How many steps the state has behind it that it goes on from.
        count: How often the stage has been restarted, this time included.
    """
    slower = SLOWER**count
    rates = {name: owner.optimizer.rate * slower for name, owner in flow.owners.items() if owner.named}
    said = ", ".join(f"{rate:.2g}" for rate in dict.fromkeys(rates.values()))
    place = "its beginning" if step == 0 else f"its best state, after step {step - 1},"
    says = f"{error.what} It was restarted from {place} with a lower learning rate ({said})."
    return {"restart": count, "rate": rates, "says": says}


def ended(
    flow: Flow,
    node: str,
    *,
    start: Mapping[str, float],
    end: Mapping[str, float],
    last: Mapping[str, float],
    trail: Trail,
    sparse: bool,
) -> dict[str, Any]:
    """What to say of a node that ends no better than it began; what the log keeps of it.

    Args:
        flow: Of the stage.
        node: The node.
        start: Its figures before the first step.
        end: Its figures in the state that it ends with.
        last: Its figures after the last step.
        trail: What the losses did.
        sparse: Whether its weights were pruned meanwhile.
    """
    stage = flow.stage
    figure = next((name for name in start if start[name] != last.get(name)), next(iter(start)))
    was, now, after = (_shown(figure, found, flow) for found in (start, end, last))
    kept = end == start
    where = f"Stage {stage.name!r}"
    if kept:
        said = (
            f"{where} made {node!r} no better: {_words(figure)} on the validation split was {was} before its first "
            f"step and {after} after its last. The network is as it was before the stage."
        )
    else:
        said = (
            f"{where} ended worse than it began: {_words(figure)} of {node!r} on the validation split was {was} "
            f"before its first step and is {now} at its end."
        )
    cause, remedy = _why(flow, node, trail, sparse=sparse)
    said += f" Likely cause: {cause}. Try {remedy}."
    if not kept and not stage.fit.keep_best:
        said += " Fit(keep_best=True) would have kept the better state."
    return {"node": node, "figure": figure, "start": dict(start), "end": dict(end), "last": dict(last), "says": said}


def _why(flow: Flow, node: str, trail: Trail, *, sparse: bool) -> tuple[str, str]:
    stage, owner = flow.stage, flow.owners[node]
    rate = owner.optimizer.rate
    if trail.rose(node):
        return f"{trail.says(node)}, so the learning rate is too high", remedies(owner, stage.fit)
    if sparse:
        return "weights were pruned while it trained", "more epochs, or pruning less"
    found = trail.of(node)
    if found is not None and found["last"] < 0.9 * found["first"]:
        cause = f"{trail.says(node)}, so it learns the training split and not the task"
        return cause, f"a lower rate ({_with_rate(owner, rate * SLOWER)}, now {rate:.2g}), fewer epochs, or more data"
    cause = f"{trail.says(node)}: there was little left to learn, or the steps were too few or too large"
    more = rate / SLOWER
    return cause, f"more epochs, or another rate ({_with_rate(owner, rate * SLOWER)} or {more:.2g}, now {rate:.2g})"


def _with_rate(owner: Owner, rate: float) -> str:
    """The optimizer with another rate, as one writes it."""
    name = getattr(owner.optimizer, "name", None)
    named = f"name={name!r}, " if isinstance(name, str) else ""
    return f"{type(owner.optimizer).__name__}({named}rate={rate:.2g})"


def _words(figure: str) -> str:
    return "the " + figure.replace("_", " ")


def _shown(figure: str, figures: Mapping[str, float], flow: Flow) -> str:
    value = figures.get(figure)
    if value is None:
        return "not measured"
    metrics = () if flow.task.task is None else flow.task.task.metrics
    shares = {metric.name for metric in metrics if metric.unit == "%"}
    return f"{value:.2f} %" if figure in shares else f"{value:.4g}"
