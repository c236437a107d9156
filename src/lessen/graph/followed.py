"""A stage whose schedules know how long it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from lessen.graph.stage import Stage
from lessen.optim.schedule import Schedule


def followed(stage: Stage, steps: int, *, epoch_steps: int) -> Stage:
    """The stage with every schedule that must know how long it is (`over`) replaced by what it then is.

    Raises:
        SettingError: a schedule cannot be followed for so long.
    """

    def known(given: Any) -> Any:
        over = getattr(given, "over", None)
        return over(steps, epoch_steps=epoch_steps) if over is not None and isinstance(given, Schedule) else given

    graph = stage.graph
    nodes = [
        replace(node, schedule=known(node.schedule)) if hasattr(node.schedule, "over") else node  # type: ignore[type-var]
        for node in graph.nodes
    ]
    edges = [
        replace(edge, schedule=known(edge.schedule), gate=known(edge.gate))
        if hasattr(edge.schedule, "over") or hasattr(edge.gate, "over")
        else edge
        for edge in graph.edges
    ]
    fit = replace(stage.fit, schedule=known(stage.fit.schedule)) if hasattr(stage.fit.schedule, "over") else stage.fit
    return replace(stage, graph=replace(graph, nodes=nodes, edges=edges), fit=fit)
