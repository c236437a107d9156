"""One lesson: an objective, its taps in teacher and student, and its weight."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from lessen.core.contracts import Bridge, LearnedObjective, Objective
from lessen.core.settings import settings
from lessen.graph import Edge, Schedule, Through
from lessen.graph.gate import Gate
from lessen.knowledge.labels.own_loss import as_objective
from lessen.surgery.taps import Address


@settings
class At:
    """An objective between two taps.

    Args:
        objective: What the student learns from the teacher there; any function `(student, teacher) -> (N,)` will do.
        tap: Where: a module's path in both networks, or a pair: in the student's, then in the teacher's. "" is the
            output; `taps("layer1", "layer2")` are several, for objectives that compare several at once.
        weight: Multiplies its mean.
        schedule: A further factor that follows the progress of the stage.
        bridge: Between the student's shape and the teacher's.
        gate: Which examples count.
    """

    objective: Annotated[Objective | LearnedObjective, BeforeValidator(as_objective)]
    tap: Address | tuple[Address, Address] = ""
    weight: float = 1.0
    schedule: Schedule | None = None
    bridge: Bridge | None = None
    gate: Gate = Through()

    def edge(self, source: str, target: str, *, share: float = 1.0, schedule: Schedule | None = None) -> Edge:
        """The edge from one node to another, with a share of the weight, and a schedule where it has none."""
        student_tap, teacher_tap = self.tap if isinstance(self.tap, tuple) else (self.tap, self.tap)
        return Edge(
            source=source,
            target=target,
            objective=self.objective,
            source_tap=teacher_tap,
            target_tap=student_tap,
            bridge=self.bridge,
            weight=self.weight * share,
            schedule=self.schedule or schedule,
            gate=self.gate,
        )


Lesson = Annotated[At | Objective | LearnedObjective, BeforeValidator(as_objective)]
"""What is taught: an objective at a tap, or an objective, or any function, between the outputs."""

LabelsObjective = Annotated[Objective, BeforeValidator(as_objective)]
"""An objective between outputs and labels, or any function."""


def at(tap: Address | tuple[Address, Address], objective: Objective | LearnedObjective, **settings: Any) -> At:
    """An objective at a tap, as `at("layer3", AttentionTransfer(), weight=0.5)`."""
    return At(tap=tap, objective=objective, **settings)


def lesson(what: Lesson) -> At:
    """A lesson; a bare objective is between the outputs."""
    return what if isinstance(what, At) else At(objective=what)
