"""Supervised training: the labels teach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.contracts import Objective
from lessen.core.settings import settings
from lessen.graph import Edge, Labels, Role
from lessen.knowledge import TaskLoss
from lessen.schemes.at import LabelsObjective
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts, TrainedScheme


@settings
class Supervised(TrainedScheme):
    """The student learns from the labels alone. Cast: `student`.

    Args:
        objective: Between the student's output and the labels.
    """

    objective: LabelsObjective = TaskLoss()

    card: ClassVar[Card] = Card(
        row="schemes / supervised",
        paper="folklore",
        says="The student learns from labels only; no network teaches it.",
        costs="One pass forward and back through the student per step.",
        fails_when="There are few labels, or they are noisy.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        student = Role(name="student", learns=True)
        edges = [Edge(source="labels", target="student", objective=self.objective)]
        return [one_stage(self, "supervised", [Labels(), student], edges)]


def supervised(objective: Objective | None = None, **settings: Any) -> Supervised:
    """Train on labels, as `supervised(epochs=10)`."""
    return Supervised(**settings) if objective is None else Supervised(objective=objective, **settings)
