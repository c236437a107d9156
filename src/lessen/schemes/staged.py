"""Hints first: the lower layers learn features, then the whole network learns outputs.

Romero et al., FitNets: hints for thin deep nets, ICLR 2015, arXiv:1412.6550, section 2.3 and algorithm 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import Field

from lessen.core.card import Card
from lessen.core.ranges import Count
from lessen.core.settings import settings
from lessen.graph import Cache, Role
from lessen.knowledge import SoftTargets
from lessen.schemes.at import At, Lesson, lesson
from lessen.schemes.labelled import LabelledScheme
from lessen.schemes.pattern import Pattern, one_stage
from lessen.schemes.scheme import Counts


@settings
class Staged(LabelledScheme):
    """A frozen teacher's features teach first; then the labels and its outputs. Cast: `teacher`, `student`.

    In the first stage, weights behind the deepest hint do not change, because no gradient reaches them. The bridges
    (projectors) of the first stage are dropped at its end.

    Args:
        hints: What is taught in the first stage, at inner layers.
        knowledge: What is taught in the second.
        labels: The weight of the labels in the second stage; 0 where there are none.
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
    hint_epochs: Count = 5
    hint_steps: Count | None = None
    cache: Cache | None = None

    last: ClassVar = ("hint_epochs", "hint_steps", "epochs", "steps", "fit", "cache")

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

    def patterns(self, counts: Counts, /) -> Sequence[Pattern]:
        nodes = [Role(name="teacher", cache=self.cache), Role(name="student", learns=True)]
        first = [hint.edge("teacher", "student") for hint in self.hints]
        second = self.labels_edges("student")
        second += [lesson(what).edge("teacher", "student") for what in self.knowledge]
        hints = dataclasses.replace(
            one_stage(self, "hints", nodes, first),
            epochs=self.hint_epochs,
            steps=self.hint_steps,
            fit=dataclasses.replace(self.fit, keep_best=False, patience=None),
        )
        return [hints, one_stage(self, "staged", [*self.labels_nodes(), *nodes], second)]


def staged(*hints: At, **settings: Any) -> Staged:
    """Teach features first, as `staged(at("layer2", Hint(), bridge=AutoBridge()), hint_epochs=5, epochs=10)`."""
    return Staged(hints=hints, **settings)
