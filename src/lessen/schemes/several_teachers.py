"""Several teachers into one student: each by an edge of its own, or all as one ensemble.

You et al., Learning from multiple teacher networks, KDD 2017.
"""

from __future__ import annotations

from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import Cache, Edge, Ensemble, Fit, Labels, Network, Stage
from lessen.graph.members import Members
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets, TaskLoss
from lessen.schemes.at import LabelsObjective, Lesson, lesson
from lessen.schemes.offline import labels_edge
from lessen.schemes.scheme import Cast, role, roles, stage
from lessen.schemes.supervised import Count


@settings
class SeveralTeachers:
    """Frozen teachers teach one student. Cast: `teachers`, `student`.

    Args:
        knowledge: What is taught. Each teacher has an equal share of the weight; give a lesson the gate `Correct()`
            to use only teachers that are right.
        ensemble: Combines all teachers' outputs into one, which then teaches. None: each teacher teaches separately.
        labels: The weight of the labels.
        labels_objective: Between the student's output and the labels.
        epochs: Passes over the training data.
        steps: Optimizer steps, instead of epochs.
        fit: How the student is trained.
        cache: Keep the teachers' outputs on disk, in one folder per teacher inside the run's folder.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    ensemble: Members | None = None
    labels: float = 1.0
    labels_objective: LabelsObjective = TaskLoss()
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()
    cache: Cache | None = None

    card: ClassVar[Card] = Card(
        row="schemes / several teachers",
        paper="You et al., KDD 2017",
        says="A student learns from several networks at once.",
        costs="A forward pass of every teacher per step, unless they are cached; nothing in the shipped model.",
        fails_when="Teachers contradict each other: the student learns a blurred average. Gate them, or use the best "
        "one alone.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        networks = roles(cast, "teachers", self)
        names = [f"teacher{number}" for number in range(1, len(networks) + 1)]
        nodes: list[Node] = [Labels()] if self.labels else []
        for name, module in zip(names, networks, strict=True):
            nodes.append(Network(name=name, module=module, learns=False, cache=self._cache(name)))
        nodes.append(Network(name="student", module=role(cast, "student", self), learns=True))
        sources = names
        if self.ensemble is not None:
            nodes.append(Ensemble(name="teachers", of=names, combine=self.ensemble))
            sources = ["teachers"]
        edges: list[Edge] = labels_edge("student", self.labels, self.labels_objective)
        for source in sources:
            edges += [lesson(what).edge(source, "student", share=1 / len(sources)) for what in self.knowledge]
        return [stage("several-teachers", nodes, edges, epochs=self.epochs, steps=self.steps, fit=self.fit)]

    def _cache(self, name: str) -> Cache | None:
        cache = self.cache
        if cache is None or cache.folder is None:
            return cache
        return Cache(folder=cache.folder / name, stored=cache.stored, top_k=cache.top_k)


def several_teachers(*knowledge: Lesson, **settings: Any) -> SeveralTeachers:
    """Learn from several, as `several_teachers(at("", SoftTargets(), gate=Correct()), epochs=10)`."""
    return SeveralTeachers(knowledge=knowledge, **settings) if knowledge else SeveralTeachers(**settings)
