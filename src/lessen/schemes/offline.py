"""Offline distillation: a frozen teacher and the labels teach a student.

Hinton, Vinyals & Dean, Distilling the knowledge in a neural network, 2015, arXiv:1503.02531.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.data import View
from lessen.core.settings import settings
from lessen.graph import Cache, OnPolicy, Role
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets
from lessen.schemes.at import Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts


@settings
class Offline(LabelledScheme):
    """A frozen teacher teaches a student. Cast: `teacher`, `student`.

    Args:
        knowledge: What is taught, where, and how much; a bare objective is between the outputs.
        cache: Keep the teacher's outputs on disk, if its view is not random. None: compute them each time.
        teacher_view: What the teacher sees of the images; None: what the student sees. `AsTheyAre()` with a student
            that sees random views lets the teacher be cached, so that it costs one pass over the data in all; its
            outputs are then for slightly different images, which is fine as long as the views are mild.
        on_policy: Let the "student" (or the "teacher") generate part of the sequences. None: those of the data.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    cache: Cache | None = None
    teacher_view: View | None = None
    on_policy: OnPolicy | None = None

    last: ClassVar = ("cache", "teacher_view", "on_policy")

    card: ClassVar[Card] = Card(
        row="schemes / offline",
        paper="arXiv:1503.02531",
        says="A trained network teaches a smaller one.",
        costs="A forward pass of the teacher per step, unless it is cached; nothing in the shipped model.",
        fails_when="The teacher is much larger than the student (use assistants), or wrong on the student's data.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        nodes: list[Node] = [
            *self.labels_nodes(),
            Role(name="teacher", view=self.teacher_view, cache=self.cache),
            Role(name="student", learns=True),
        ]
        if self.on_policy is not None:
            nodes.append(self.on_policy)
        edges = self.labels_edges("student")
        edges += [lesson(what).edge("teacher", "student") for what in self.knowledge]
        return [one_stage(self, "offline", nodes, edges)]


def offline(*knowledge: Lesson, **settings: Any) -> Offline:
    """Distil, as `offline(SoftTargets(temperature=4.0), at("layer3", AttentionTransfer(), weight=0.5), epochs=10)`."""
    return Offline(knowledge=knowledge, **settings) if knowledge else Offline(**settings)
