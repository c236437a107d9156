"""Several teachers into one student: each by an edge of its own, or all as one ensemble.

You et al., Learning from multiple teacher networks, KDD 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import Cache, Ensemble, Role
from lessen.graph.members import Members
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets
from lessen.schemes.at import Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts, count


@settings
class SeveralTeachers(LabelledScheme):
    """Frozen teachers teach one student. Cast: `teachers`, `student`.

    Args:
        knowledge: What is taught. Each teacher has an equal share of the weight; give a lesson the gate `Correct()`
            to use only teachers that are right.
        ensemble: Combines all teachers' outputs into one, which then teaches. None: each teacher teaches separately.
        cache: Keep the teachers' outputs on disk, in one folder per teacher inside the run's folder.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    ensemble: Members | None = None
    cache: Cache | None = None

    last: ClassVar = ("cache",)

    card: ClassVar[Card] = Card(
        row="schemes / several teachers",
        paper="You et al., KDD 2017",
        says="A student learns from several networks at once.",
        costs="A forward pass of every teacher per step, unless they are cached; nothing in the shipped model.",
        fails_when="Teachers contradict each other: the student learns a blurred average. Gate them, or use the best "
        "one alone.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        names = [f"teacher{number}" for number in range(1, count(counts, "teachers", self) + 1)]
        nodes: list[Node] = [*self.labels_nodes()]
        for place, name in enumerate(names):
            nodes.append(Role(name=name, role="teachers", place=place, cache=self._cache(name)))
        nodes.append(Role(name="student", learns=True))
        sources = names
        if self.ensemble is not None:
            nodes.append(Ensemble(name="teachers", of=names, combine=self.ensemble))
            sources = ["teachers"]
        edges = self.labels_edges("student")
        for source in sources:
            edges += [lesson(what).edge(source, "student", share=1 / len(sources)) for what in self.knowledge]
        return [one_stage(self, "several-teachers", nodes, edges)]

    def _cache(self, name: str) -> Cache | None:
        cache = self.cache
        if cache is None or cache.folder is None:
            return cache
        return Cache(folder=cache.folder / name, stored=cache.stored, top_k=cache.top_k)


def several_teachers(*knowledge: Lesson, **settings: Any) -> SeveralTeachers:
    """Learn from several, as `several_teachers(at("", SoftTargets(), gate=Correct()), epochs=10)`."""
    return SeveralTeachers(knowledge=knowledge, **settings) if knowledge else SeveralTeachers(**settings)
