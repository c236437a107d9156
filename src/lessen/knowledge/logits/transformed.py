"""Any objective on logits, behind a transform of them.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import model_validator
from torch import Tensor

from lessen.core import Card, Objective, ObjectiveInput, settings
from lessen.knowledge.axes.temperature import at_progress
from lessen.knowledge.axes.transforms import (
    StandardizeLogits,
    Transform,
    WithoutLabel,
    found_inputs,
    needs_of,
    side_of,
    transformed,
)
from lessen.knowledge.logits.soft_targets import SoftTargets


@settings
class Transformed:
    """Apply an objective to transformed logits, such as any loss on standardised logits.

    Args:
        transform: The transform of both networks' logits.
        objective: Compares the transformed logits.
    """

    transform: Transform = StandardizeLogits()
    objective: Objective = SoftTargets(temperature=2.0)

    card: ClassVar[Card] = Card(
        row="knowledge / logits",
        paper="arXiv:2403.01427 (standardised logits before any loss)",
        says="The objective on transformed logits.",
        costs="The cost of its parts.",
        fails_when="The transform removes what the objective compares, as the size of the logits from a regression.",
    )

    @model_validator(mode="after")
    def _labels_stay(self) -> Self:
        if isinstance(self.transform, WithoutLabel) and ObjectiveInput.LABELS in needs_of(self.objective):
            raise ValueError("WithoutLabel removes the label's class, which the objective reads; change one of the two")
        return self

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What the transform and the objective need in addition to the teacher's logits."""
        return needs_of(self.transform, self.objective)

    @property
    def relational(self) -> bool:
        """Whether the objective looks at the whole batch."""
        return bool(getattr(self.objective, "relational", False))

    def during(self, progress: float) -> Self:
        """The same with parts as they are at this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        values, found = found_inputs(self, teacher)
        logits = transformed(self.transform, student, values, found)
        return self.objective(logits[0], side_of(self.objective, logits[1], found)).to(student.dtype)
