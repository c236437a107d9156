"""Teacher assistants: several small steps instead of a large one.

Mirzadeh et al., Improved knowledge distillation via teacher assistant, AAAI 2020, arXiv:1902.03393. With `dense`:
Son et al., Densely guided knowledge distillation using multiple teacher assistants, ICCV 2021, arXiv:2009.08825.
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
from lessen.schemes.scheme import Cast, role, roles, stage
from lessen.schemes.supervised import Count


@settings
class AssistantChain:
    """The teacher teaches the first assistant, each assistant the next, the last one the student.

    Cast: `teacher`, `assistants` (from large to small), `student`.

    Args:
        knowledge: What is taught at every link.
        dense: Whether all previous networks teach, with equal weights, instead of only the last one.
        labels: The weight of the labels at every link.
        labels_objective: Between an output and the labels.
        epochs: Passes over the training data, for each link.
        steps: Optimizer steps for each link, instead of epochs.
        fit: How the learning network is trained.
    """

    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    dense: bool = False
    labels: float = 1.0
    labels_objective: LabelsObjective = TaskLoss()
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()

    card: ClassVar[Card] = Card(
        row="schemes / assistants",
        paper="arXiv:1902.03393, arXiv:2009.08825",
        says="Networks of intermediate sizes pass the knowledge on, step by step.",
        costs="Each assistant is trained; nothing in the shipped model.",
        fails_when="The gap is small: the errors of the links add up, and the teacher alone is better.",
        differs="The dense form keeps every teacher at every step; the paper drops some at random.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        middle = roles(cast, "assistants", self)
        line = [role(cast, "teacher", self), *middle, role(cast, "student", self)]
        names = ["teacher", *[f"assistant{number}" for number in range(1, len(middle) + 1)], "student"]
        return [self._link(line[: place + 1], names[: place + 1]) for place in range(1, len(line))]

    def _link(self, networks: list[Any], names: list[str]) -> Stage:
        target, teachers = names[-1], names[:-1] if self.dense else names[-2:-1]
        taking_part = [(n, m) for n, m in zip(names, networks, strict=True) if n == target or n in teachers]
        nodes: list[Node] = [Labels()] if self.labels else []
        nodes += [Network(name=name, module=module, learns=name == target) for name, module in taking_part]
        edges = labels_edge(target, self.labels, self.labels_objective)
        for source in teachers:
            edges += [lesson(what).edge(source, target, share=1 / len(teachers)) for what in self.knowledge]
        return stage(f"chain to {target}", nodes, edges, epochs=self.epochs, steps=self.steps, fit=self.fit)


def assistant_chain(*knowledge: Lesson, **settings: Any) -> AssistantChain:
    """Distil along a chain, as `assistant_chain(SoftTargets(temperature=4.0), epochs=10)`."""
    return AssistantChain(knowledge=knowledge, **settings) if knowledge else AssistantChain(**settings)
