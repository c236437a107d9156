"""Mutual learning: students teach each other while they learn.

Zhang et al., Deep mutual learning, CVPR 2018, arXiv:1706.00384.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import Role
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets
from lessen.schemes.at import Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts, count


@settings
class Mutual(LabelledScheme):
    """Two or more students learn from the labels and from each other. Cast: `students`.

    Args:
        knowledge: What each student teaches every other student; its weight is divided by the number of other students.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(temperature=1.0),)

    card: ClassVar[Card] = Card(
        row="schemes / mutual",
        paper="arXiv:1706.00384",
        says="Students teach each other from the first step.",
        costs="All students are trained; one is shipped.",
        fails_when="The students are alike and start alike: they soon agree and have nothing to teach.",
        differs="All students are updated at once; the paper updates them in turn.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        names = [f"student{number}" for number in range(1, count(counts, "students", self, least=2) + 1)]
        nodes: list[Node] = [*self.labels_nodes()]
        nodes += [Role(name=name, role="students", place=place, learns=True) for place, name in enumerate(names)]
        edges = [edge for name in names for edge in self.labels_edges(name)]
        for target in names:
            for source in names:
                if source != target:
                    edges += [lesson(what).edge(source, target, share=1 / (len(names) - 1)) for what in self.knowledge]
        return [one_stage(self, "mutual", nodes, edges)]


def mutual(*knowledge: Lesson, **settings: Any) -> Mutual:
    """Let students teach each other, as `mutual(SoftTargets(temperature=1.0), epochs=10)`."""
    return Mutual(knowledge=knowledge, **settings) if knowledge else Mutual(**settings)
