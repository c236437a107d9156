"""Mutual learning: students teach each other while they learn.

Zhang et al., Deep mutual learning, CVPR 2018, arXiv:1706.00384.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import Fit, Labels, Network, Stage
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets, TaskLoss
from lessen.schemes.at import LabelsObjective, Lesson, lesson
from lessen.schemes.offline import labels_edge
from lessen.schemes.scheme import Cast, roles, stage
from lessen.schemes.supervised import Count


@settings
class Mutual:
    """Two or more students learn from the labels and from each other. Cast: `students`.

    Args:
        knowledge: What each student teaches every other student; its weight is divided by the number of other students.
        labels: The weight of the labels.
        labels_objective: Between a student's output and the labels.
        epochs: Passes over the training data.
        steps: Optimizer steps, instead of epochs.
        fit: How the students are trained.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(temperature=1.0),)
    labels: float = 1.0
    labels_objective: LabelsObjective = TaskLoss()
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()

    card: ClassVar[Card] = Card(
        row="schemes / mutual",
        paper="arXiv:1706.00384",
        says="Students teach each other from the first step.",
        costs="All students are trained; one is shipped.",
        fails_when="The students are alike and start alike: they soon agree and have nothing to teach.",
        differs="All students are updated at once; the paper updates them in turn.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        networks = roles(cast, "students", self, least=2)
        names = [f"student{number}" for number in range(1, len(networks) + 1)]
        nodes: list[Node] = [Labels()] if self.labels else []
        nodes += [Network(name=name, module=module, learns=True) for name, module in zip(names, networks, strict=True)]
        edges = [edge for name in names for edge in labels_edge(name, self.labels, self.labels_objective)]
        for target in names:
            for source in names:
                if source != target:
                    edges += [lesson(what).edge(source, target, share=1 / (len(names) - 1)) for what in self.knowledge]
        return [stage("mutual", nodes, edges, epochs=self.epochs, steps=self.steps, fit=self.fit)]


def mutual(*knowledge: Lesson, **settings: Any) -> Mutual:
    """Let students teach each other, as `mutual(SoftTargets(temperature=1.0), epochs=10)`."""
    return Mutual(knowledge=knowledge, **settings) if knowledge else Mutual(**settings)
