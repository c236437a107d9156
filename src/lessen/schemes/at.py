"""At: one lesson: an objective, where it is taken and where it is given, and how much it counts."""

from __future__ import annotations

from typing import Any

from lessen.core.contracts import Bridge, Objective
from lessen.core.settings import settings
from lessen.graph import Edge, Schedule, Through
from lessen.graph.gate import Gate
from lessen.surgery.taps import Tap


@settings
class At:
    """An objective between two taps.

    Args:
        objective: What the student learns from the teacher there.
        tap: Where: a module's path in both networks, or a pair: in the student's, then in the teacher's. "" is the
            output.
        weight: What its mean is multiplied by.
        schedule: A further factor that follows the progress of the stage.
        bridge: Between the student's shape and the teacher's.
        gate: Which examples count.
    """

    objective: Objective
    tap: str | Tap | tuple[str | Tap, str | Tap] = ""
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


Lesson = At | Objective


def at(tap: str | Tap | tuple[str | Tap, str | Tap], objective: Objective, **settings: Any) -> At:
    """An objective at a tap, as `at("layer3", AttentionTransfer(), weight=0.5)`."""
    return At(tap=tap, objective=objective, **settings)


def lesson(what: Lesson) -> At:
    """A lesson; a bare objective is between the outputs."""
    return what if isinstance(what, At) else At(objective=what)
