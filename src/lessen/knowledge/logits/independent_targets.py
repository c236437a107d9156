"""Soft targets of outputs that are no distribution over classes: independent probabilities, and numbers.

Binary cross-entropy on soft labels: Yang et al., Multi-label knowledge distillation, ICCV 2023, arXiv:2308.06453,
section 3.2. Regression: Chen et al., Learning efficient object detection models with knowledge distillation, NIPS 2017,
section 3.3, without its bound.

Shapes: N examples, K outputs.
"""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature


@settings
class IndependentTargets:
    """Match the teacher's softened probability of each label independently (multi-label tasks).

    Args:
        temperature: Divides both sets of logits. A number, or `AnnealedTemperature`.
        scale_by_temperature: Multiply by temperature ** 2, so that gradients keep their size when it changes.
    """

    temperature: Temperature = 4.0
    scale_by_temperature: bool = True

    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="arXiv:2308.06453",
        says="T^2 times the mean over labels of KL(sigmoid(teacher / T) || sigmoid(student / T)).",
        costs="Nothing in the shipped model; one forward pass of the teacher per step, or a cache of its logits.",
        fails_when="Classes exclude each other: a softmax then carries more information.",
        differs="Averaged over labels, so that its size does not depend on how many there are; the paper sums.",
    )

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="IndependentTargets")
        temperature = first_temperature(self.temperature)
        ours, theirs = wide(student) / temperature, wide(teacher) / temperature
        yes, no = theirs.sigmoid(), (-theirs).sigmoid()
        loss = yes * (F.logsigmoid(theirs) - F.logsigmoid(ours)) + no * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
        return per_example(loss * (temperature**2 if self.scale_by_temperature else 1.0), student)


@settings
class NumberTargets:
    """Predict what the teacher predicts: the squared difference, averaged over outputs."""

    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="NIPS 2017 (Chen et al.)",
        says="The teacher's predictions act as labels without noise, for unlabelled examples too.",
        costs="Nothing in the shipped model; one forward pass of the teacher per step, or a cache of its outputs.",
        fails_when="The teacher is far from the truth: the student learns its errors.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="NumberTargets")
        return per_example((wide(student) - wide(teacher)).square(), student)
