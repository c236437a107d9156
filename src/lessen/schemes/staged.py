"""Hints first: the lower layers learn features, then the whole network learns outputs.

Romero et al., FitNets: hints for thin deep nets, ICLR 2015, arXiv:1412.6550, section 2.3 and algorithm 1.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar

from pydantic import Field

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.graph import Cache, Fit, Labels, Network, Stage
from lessen.graph.nodes.node import Node
from lessen.knowledge import SoftTargets, TaskLoss
from lessen.schemes.at import At, LabelsObjective, Lesson, lesson
from lessen.schemes.offline import labels_edge
from lessen.schemes.scheme import Cast, role, stage
from lessen.schemes.supervised import Count


@settings
class Staged:
    """A frozen teacher's features teach first; then the labels and its outputs. Cast: `teacher`, `student`.

    In the first stage, weights behind the deepest hint do not change, because no gradient reaches them. The bridges
    (projectors) of the first stage are dropped at its end.

    Args:
        hints: What is taught in the first stage, at inner layers.
        knowledge: What is taught in the second.
        labels: The weight of the labels in the second stage; 0 where there are none.
        labels_objective: Between the student's output and the labels.
        hint_epochs: Passes over the training data in the first stage.
        hint_steps: Optimizer steps in the first stage, instead of epochs.
        epochs: Passes over the training data in the second.
        steps: Optimizer steps in the second, instead of epochs.
        fit: How the student is trained. The first stage does not use the validation split, because the outputs are
            still meaningless then.
        cache: Keep the teacher's outputs on disk, if training batches have no random view. None: compute them each
            time.
    """

    hints: Annotated[tuple[At, ...], Field(min_length=1)]
    knowledge: tuple[Lesson, ...] = (SoftTargets(),)
    labels: float = 1.0
    labels_objective: LabelsObjective = TaskLoss()
    hint_epochs: Count = 5
    hint_steps: Count | None = None
    epochs: Count = 10
    steps: Count | None = None
    fit: Fit = Fit()
    cache: Cache | None = None

    card: ClassVar[Card] = Card(
        row="schemes / offline",
        paper="arXiv:1412.6550; arXiv:1811.03233 (activation boundary)",
        says="Features are learned before outputs, so that a deep thin student starts from a trainable point.",
        costs="The passes of a first stage, through teacher and student; nothing in the shipped model.",
        fails_when="The hint is deep: the student is bound to the teacher's features before it sees a label. A "
        "student that trains well by itself only loses time.",
        differs="Running statistics of normalisations after the hint still follow the data. The paper decreases the "
        "weight of the soft targets: that is the schedule of their edge.",
    )

    def stages(self, cast: Cast, /) -> list[Stage]:
        nodes: list[Node] = [
            Network(name="teacher", module=role(cast, "teacher", self), learns=False, cache=self.cache),
            Network(name="student", module=role(cast, "student", self), learns=True),
        ]
        taught: list[Node] = [Labels(), *nodes] if self.labels else nodes
        first = [hint.edge("teacher", "student") for hint in self.hints]
        second = labels_edge("student", self.labels, self.labels_objective)
        second += [lesson(what).edge("teacher", "student") for what in self.knowledge]
        unchosen = dataclasses.replace(self.fit, keep_best=False, patience=None)
        return [
            stage("hints", nodes, first, epochs=self.hint_epochs, steps=self.hint_steps, fit=unchosen),
            stage("staged", taught, second, epochs=self.epochs, steps=self.steps, fit=self.fit),
        ]


def staged(*hints: At, **settings: Any) -> Staged:
    """Teach features first, as `staged(at("layer2", Hint(), bridge=AutoBridge()), hint_epochs=5, epochs=10)`."""
    return Staged(hints=hints, **settings)
