"""Self-distillation by snapshot: a network learns from its earlier states.

Last epoch: Kim et al., ICCV 2021, arXiv:2006.12000. Last step: Shen et al., CVPR 2022, arXiv:2203.16172. Moving
average: Tarvainen & Valpola, NeurIPS 2017, arXiv:1703.01780.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import LastEpoch, LinearWarmup, Role, Schedule, Snapshot
from lessen.graph.when import When
from lessen.knowledge import SoftTargets
from lessen.schemes.at import Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts


@settings
class SelfSnapshot(LabelledScheme):
    """A student learns from the labels and from a snapshot of itself. Cast: `student`.

    Args:
        when: When the snapshot is taken.
        knowledge: What the snapshot teaches.
        schedule: The weight over time of knowledge that has no schedule of its own. It starts low, because an early
            snapshot knows little.
    """

    when: When = LastEpoch()
    knowledge: tuple[Lesson, ...] = (SoftTargets(temperature=1.0),)
    schedule: Schedule = LinearWarmup()

    card: ClassVar[Card] = Card(
        row="schemes / self-distillation",
        paper="arXiv:2006.12000, arXiv:2203.16172, arXiv:1703.01780",
        says="A network is taught by its own state an epoch or a step ago, or by its own average.",
        costs="A copy of the network and one more forward pass per step; nothing in the shipped model.",
        fails_when="Label smoothing often helps as much: compare with it.",
        differs="Published code mixes labels and snapshot into one target; here they are two edges.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        nodes = [
            *self.labels_nodes(),
            Role(name="student", learns=True),
            Snapshot(name="past", of="student", when=self.when),
        ]
        edges = self.labels_edges("student")
        edges += [lesson(what).edge("past", "student", schedule=self.schedule) for what in self.knowledge]
        return [one_stage(self, "self-snapshot", nodes, edges)]


def self_snapshot(*knowledge: Lesson, **settings: Any) -> SelfSnapshot:
    """Let a network learn from its earlier states, as `self_snapshot(when=MovingAverage(decay=0.99), epochs=10)`."""
    return SelfSnapshot(knowledge=knowledge, **settings) if knowledge else SelfSnapshot(**settings)
