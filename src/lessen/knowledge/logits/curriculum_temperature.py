"""Curriculum temperature: the temperature learns to make the task harder for the student, bit by bit.

Li et al., Curriculum temperature for knowledge distillation, AAAI 2023, arXiv:2211.16231, section 3; reversal of the
gradient: Ganin & Lempitsky, ICML 2015, arXiv:1409.7495.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, Objective, ObjectiveInput, TaskFacts, settings
from lessen.functional.shapes import require_same, wide
from lessen.knowledge.axes.temperature import at_progress
from lessen.knowledge.axes.transforms import found_inputs, needs_of, side_of
from lessen.knowledge.logits.soft_targets import SoftTargets


def reverse_gradient(value: Tensor, *, strength: float) -> Tensor:
    """The value itself, with a gradient of minus `strength`: an optimizer that descends by it ascends.

    >>> value = torch.tensor(2.0, requires_grad=True)
    >>> (3 * reverse_gradient(value, strength=0.5)).backward()
    >>> value.grad
    tensor(-1.5000)
    """
    # Adding what is zero, (value - value) * strength, keeps the value to its last bit.
    return value.detach() + strength * (value.detach() - value)


def ramp(progress: float, *, over: float) -> float:
    """From 0 to 1 along half a cosine, over the first share of the stage.

    >>> round(ramp(0.1, over=0.2), 6)
    0.5
    """
    return (1 - math.cos(math.pi * min(progress / over, 1.0))) / 2


@settings
class CurriculumTemperature:
    """Any objective on logits, at a temperature that is learned adversarially, to make the student's task harder.

    Args:
        objective: Compares the logits. Its own temperature must be 1; its loss is multiplied by the square of the
            learned one.
        lowest: The lowest temperature.
        span: The range of temperatures above the lowest.
        over: The share of the stage over which the temperature's learning rate rises to its full value.
    """

    objective: Objective = SoftTargets(temperature=1.0)
    lowest: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    span: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 20.0
    over: Annotated[float, Field(gt=0, le=1)] = 0.05

    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="CTKD, arXiv:2211.16231",
        says="One number learns by the reversed gradient: lowest + span * sigmoid(number) is the temperature.",
        costs="One weight while training, nothing in the shipped model.",
        fails_when="It uses the student's learning rate, and the loss is largest at one end of the range: the "
        "temperature moves there and stays. With T^2 that is often the highest temperature.",
        differs="One temperature for all examples (the paper's global one); it becomes harder over a share of the "
        "stage; released scripts use 10 of 240 epochs.",
    )

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What the objective needs in addition to the teacher's logits."""
        return needs_of(self.objective)

    @property
    def relational(self) -> bool:
        """Whether the objective looks at the whole batch."""
        return bool(getattr(self.objective, "relational", False))

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        return LearnedTemperature(self)


class LearnedTemperature(nn.Module):
    """The temperature of an edge, and what is compared at it.

    Args:
        told: The settings.
    """

    card: ClassVar[Card] = CurriculumTemperature.card

    def __init__(self, told: CurriculumTemperature) -> None:
        super().__init__()
        self.told = told
        self.needs, self.relational = told.needs, told.relational
        self.number = nn.Parameter(torch.ones(()))
        self.strength = 0.0
        self.objective = told.objective

    def during(self, progress: float) -> Self:
        """Store the difficulty for this progress of the stage."""
        self.strength = ramp(progress, over=self.told.over)
        self.objective = at_progress(self.told, progress).objective
        return self

    def temperature(self) -> Tensor:
        """The temperature as it is, with its gradient reversed."""
        return self.told.lowest + self.told.span * reverse_gradient(self.number, strength=self.strength).sigmoid()

    def forward(self, student: Tensor, teacher: Any) -> Tensor:
        values, found = found_inputs(self, teacher)
        require_same(student, values, what="CurriculumTemperature", least=2)
        temperature = self.temperature()
        logits = wide(student) / temperature, wide(values) / temperature
        loss_N = self.objective(logits[0], side_of(self.objective, logits[1], found))
        return (loss_N * temperature.square()).to(student.dtype)
