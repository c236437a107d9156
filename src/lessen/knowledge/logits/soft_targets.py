"""Soft targets: the teacher's probabilities say which mistakes are small.

Hinton, Vinyals & Dean, Distilling the knowledge in a neural network, NeurIPS workshop 2014,
arXiv:1503.02531, section 2.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.core.errors import ShapeError
from lessen.core.task import Meaning, Task
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature
from lessen.knowledge.axes.transforms import Transform, found_inputs, needs_of, transformed
from lessen.knowledge.logits.independent_targets import IndependentTargets, NumberTargets


def soft_targets(
    student: Tensor,
    teacher: Tensor,
    *,
    temperature: float,
    divergence: Divergence,
    scale_by_temperature: bool = True,
) -> Tensor:
    """The divergence of softmax(logits / T), summed over classes, averaged over positions: shape (N,), in nat.

    Raises:
        ShapeError: the logits differ in shape, or are not (N, C, ...).
    """
    require_same(
        student, teacher, what="SoftTargets", least=2, advice="Logits are of shape (N, C, ...) with the same classes."
    )
    ours, theirs = wide(student), wide(teacher)
    if temperature != 1:
        ours, theirs = ours / temperature, theirs / temperature
    loss = divergence(ours.log_softmax(1), theirs.log_softmax(1))
    if scale_by_temperature and temperature != 1:
        loss = loss * temperature**2
    return per_example(loss, student)


@settings
class SoftTargets:
    """Match the teacher's softened distribution over classes.

    Args:
        temperature: Divides both sets of logits; a higher temperature brings out more of the teacher's small
            probabilities. A number, or `AnnealedTemperature`.
        divergence: How two distributions are compared.
        scale_by_temperature: Multiply by temperature ** 2, so that gradients keep their size when it changes.
        transform: The transform of both sets of logits before the temperature; None leaves them as they are.
    """

    temperature: Temperature = 4.0
    divergence: Divergence = ForwardKL()
    scale_by_temperature: bool = True
    transform: Transform | None = None

    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="arXiv:1503.02531",
        says="T^2 KL(softmax(teacher / T) || softmax(student / T)).",
        costs="Nothing in the shipped model; one forward pass of the teacher per step, or a cache of its logits.",
        fails_when="The teacher is overconfident (trained to zero loss, or with label smoothing), or sees another view "
        "of the example than the student.",
        differs="Summed over classes and never divided by their number, unlike KLDivLoss by default. T^2 keeps the "
        "gradient's size for KL only; total variation scales as T.",
    )

    def for_task(self, task: Task | None, student: Any, teacher: Any) -> Any:
        """What soft targets mean for a task: independent probabilities, numbers, or classes along another axis.

        Raises:
            ShapeError: softmax over one output teaches nothing.
        """
        logits = teacher[0] if isinstance(teacher, tuple) else teacher
        meaning = None if task is None else task.meaning
        if meaning is Meaning.INDEPENDENT:
            return IndependentTargets(temperature=self.temperature, scale_by_temperature=self.scale_by_temperature)
        if meaning is Meaning.NUMBERS:
            return NumberTargets()
        if meaning is Meaning.CLASSES and task is not None and task.class_axis == -1 and logits.ndim > 2:
            return self._at_positions(task, logits)
        if logits.ndim < 2 or logits.shape[1] == 1:
            raise ShapeError(
                f"SoftTargets: a softmax over one output, of shape {tuple(logits.shape)}, is always 1 and teaches "
                "nothing. For one logit name task='binary', for a number to predict task='regression'."
            )
        return self

    def _at_positions(self, task: Task, logits: Tensor) -> Any:
        from lessen.knowledge.sequences.over_tokens import OverTokens

        if logits.ndim == 3:
            return OverTokens(objective=self, shift=bool(getattr(task, "shift", False)))
        return LastAxis(self)

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What the transform needs in addition to the teacher's logits."""
        return needs_of(self.transform)

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        logits = student, teacher
        if self.transform is not None:
            values, found = found_inputs(self, teacher)
            logits = transformed(self.transform, student, values, found)
        return soft_targets(
            *logits,
            temperature=first_temperature(self.temperature),
            divergence=self.divergence,
            scale_by_temperature=self.scale_by_temperature,
        ).to(student.dtype)


@dataclass(frozen=True)
class LastAxis:
    """Soft targets for logits with the classes along the last axis: (N, ..., C).

    Args:
        objective: For classes along axis 1.
    """

    objective: SoftTargets

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What the transform needs in addition to the teacher's logits."""
        return self.objective.needs

    def during(self, progress: float) -> LastAxis:
        """The same with the temperature of this progress of the stage."""
        return LastAxis(self.objective.during(progress))

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        if isinstance(teacher, tuple):
            return self.objective(student.movedim(-1, 1), (teacher[0].movedim(-1, 1), *teacher[1:]))
        return self.objective(student.movedim(-1, 1), teacher.movedim(-1, 1))
