"""Supervised training: the labels teach."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from lessen.core.card import Card
from lessen.core.contracts import Objective
from lessen.core.settings import settings
from lessen.graph import Edge, Fit, Labels, Network, Stage
from lessen.knowledge import TaskLoss
from lessen.schemes.at import LabelsObjective
from lessen.schemes.scheme import Cast, role, stage

Count = Annotated[int, Field(ge=1)]


@settings
class Supervised:
    """The student learns from the labels alone. Cast: `student`.

    Args:
        objective: Between the student's output and the labels.
        epochs: Passes over the training data.
        steps: Optimizer steps, instead of epochs.
        fit: How the student is trained.
    """

    objective: LabelsObjective = TaskLoss()
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()

    card: ClassVar[Card] = Card(
        row="schemes / supervised",
        paper="folklore",
        says="The student learns from labels only; no network teaches it.",
        costs="One pass forward and back through the student per step.",
        fails_when="There are few labels, or they are noisy.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        student = Network(name="student", module=role(cast, "student", self), learns=True)
        edges = [Edge(source="labels", target="student", objective=self.objective)]
        return [stage("supervised", [Labels(), student], edges, epochs=self.epochs, steps=self.steps, fit=self.fit)]


def supervised(objective: Objective | None = None, **settings: Any) -> Supervised:
    """Train on labels, as `supervised(epochs=10)`."""
    return Supervised(**settings) if objective is None else Supervised(objective=objective, **settings)
