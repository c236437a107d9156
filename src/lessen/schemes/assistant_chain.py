"""Teacher assistants: several small steps instead of a large one.

Mirzadeh et al., Improved knowledge distillation via teacher assistant, AAAI 2020, arXiv:1902.03393. With `dense`:
Son et al., Densely guided knowledge distillation using multiple teacher assistants, ICCV 2021, arXiv:2009.08825.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import Role
from lessen.knowledge import SoftTargets
from lessen.schemes.at import Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts, count


@settings
class AssistantChain(LabelledScheme):
    """The teacher teaches the first assistant, each assistant the next, the last one the student.

    Cast: `teacher`, `assistants` (from large to small), `student`.

    Args:
        knowledge: What is taught at every link.
        dense: Whether all previous networks teach, with equal weights, instead of only the last one.
        labels: The weight of the labels at every link.
        epochs: Passes over the training data, for each link.
        steps: Optimizer steps for each link, instead of epochs.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    dense: bool = False

    card: ClassVar[Card] = Card(
        row="schemes / assistants",
        paper="arXiv:1902.03393, arXiv:2009.08825",
        says="Networks of intermediate sizes pass the knowledge on, step by step.",
        costs="Each assistant is trained; nothing in the shipped model.",
        fails_when="The gap is small: the errors of the links add up, and the teacher alone is better.",
        differs="The dense form keeps every teacher at every step; the paper drops some at random.",
    )

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        middle = count(counts, "assistants", self)
        line = [Role(name="teacher")]
        line += [Role(name=f"assistant{place + 1}", role="assistants", place=place) for place in range(middle)]
        line.append(Role(name="student"))
        return [self._link(line[:place], line[place]) for place in range(1, len(line))]

    def _link(self, before: Sequence[Role], target: Role) -> Pattern:
        teachers = before if self.dense else before[-1:]
        nodes = [*self.labels_nodes(), *teachers, dataclasses.replace(target, learns=True)]
        edges = self.labels_edges(target.name)
        for teacher in teachers:
            edges += [lesson(what).edge(teacher.name, target.name, share=1 / len(teachers)) for what in self.knowledge]
        return one_stage(self, f"chain to {target.name}", nodes, edges)


def assistant_chain(*knowledge: Lesson, **settings: Any) -> AssistantChain:
    """Distil along a chain, as `assistant_chain(SoftTargets(temperature=4.0), epochs=10)`."""
    return AssistantChain(knowledge=knowledge, **settings) if knowledge else AssistantChain(**settings)
