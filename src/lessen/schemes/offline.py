"""Offline distillation: a frozen teacher and the labels teach a student.

Hinton, Vinyals & Dean, Distilling the knowledge in a neural network, 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.contracts import Objective
from lessen.core.data import View
from lessen.core.settings import settings
from lessen.graph import Cache, Edge, Fit, Labels, Network, OnPolicy, Stage
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets, TaskLoss
from lessen.schemes.at import LabelsObjective, Lesson, lesson
from lessen.schemes.scheme import Cast, role, stage
from lessen.schemes.supervised import Count


@settings
class Offline:
    """A frozen teacher teaches a student. Cast: `teacher`, `student`.

    Args:
        knowledge: What is taught, where, and how much; a bare objective is between the outputs.
        labels: The weight of the labels; 0 where there are none.
        labels_objective: Between the student's output and the labels.
        epochs: Passes over the training data.
        steps: Optimizer steps, instead of epochs.
        fit: How the student is trained.
        cache: Keep the teacher's outputs on disk, if its view is not random. None: compute them each time.
        teacher_view: What the teacher sees of the images; None: what the student sees. `AsTheyAre()` with a student
            that sees random views lets the teacher be cached, so that it costs one pass over the data in all; its
            outputs are then for slightly different images, which is fine as long as the views are mild.
        on_policy: Let the "student" (or the "teacher") generate part of the sequences. None: those of the data.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    labels: float = 1.0
    labels_objective: LabelsObjective = TaskLoss()
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()
    cache: Cache | None = None
    teacher_view: View | None = None
    on_policy: OnPolicy | None = None

    card: ClassVar[Card] = Card(
        row="schemes / offline",
        paper="arXiv:1503.02531",
        says="A trained network teaches a smaller one.",
        costs="A forward pass of the teacher per step, unless it is cached; nothing in the shipped model.",
        fails_when="The teacher is much larger than the student (use assistants), or wrong on the student's data.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        nodes: list[Node] = [
            Network(
                name="teacher",
                module=role(cast, "teacher", self),
                learns=False,
                view=self.teacher_view,
                cache=self.cache,
            ),
            Network(name="student", module=role(cast, "student", self), learns=True),
        ]
        edges = labels_edge("student", self.labels, self.labels_objective)
        if edges:
            nodes.insert(0, Labels())
        edges += [lesson(what).edge("teacher", "student") for what in self.knowledge]
        return [
            stage("offline", nodes, edges, epochs=self.epochs, steps=self.steps, fit=self.fit, on_policy=self.on_policy)
        ]


def offline(*knowledge: Lesson, **settings: Any) -> Offline:
    """Distil, as `offline(SoftTargets(temperature=4.0), at("layer3", AttentionTransfer(), weight=0.5), epochs=10)`."""
    return Offline(knowledge=knowledge, **settings) if knowledge else Offline(**settings)


def labels_edge(target: str, weight: float, objective: Objective) -> list[Edge]:
    """The edge from the labels to a node, unless its weight is 0."""
    return [Edge(source="labels", target=target, objective=objective, weight=weight)] if weight else []
