"""Logit transforms: what is done to the logits of both before they are compared; an axis of its own.

Standardisation: Sun et al., Logit standardization in knowledge distillation, CVPR 2024, arXiv:2403.01427, section 3.
The teacher's power: Zheng & Yang, Knowledge distillation based on transformed teacher matching, ICLR 2024,
arXiv:2402.11148, section 3. Swapping the label: Wen et al., Preparing lessons, arXiv:1911.07471, section 3.1.

The temperature is `knowledge.temperature`; restriction to the teacher's top classes must follow the temperature, and is
the divergence `TopClasses`.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, ObjectiveInput, settings
from lessen.core.errors import ShapeError
from lessen.functional.classes import at_label, class_numbers, without_label
from lessen.functional.shapes import require_same, wide

_ROW = "knowledge / transforms"


@runtime_checkable
class Transform(Protocol):
    """From the logits of student and teacher, (N, C, ...), to those that are compared, both of one shape.

    A transform may have `needs = (ObjectiveInput.LABELS,)`: its teacher's side is then `(logits, labels)`.
    What it gives is in the taps' dtype; whoever calls it has widened half precision.
    """

    card: ClassVar[Card]

    def __call__(self, student_logits_NC: Tensor, teacher_logits_NC: Any, /) -> tuple[Tensor, Tensor]: ...


def standardize(logits_NC: Tensor, *, tiny: float = 1e-7) -> Tensor:
    """(z - mean) / (standard deviation + tiny) over classes, with C - 1 in the deviation; zero where all are alike.

    >>> standardize(torch.tensor([[1.0, 2.0, 3.0]])).round(decimals=3)
    tensor([[-1.,  0.,  1.]])
    """
    centred_NC = logits_NC - logits_NC.mean(1, keepdim=True)
    # The length has a gradient where it is zero; a standard deviation has none.
    deviation = torch.linalg.vector_norm(centred_NC, dim=1, keepdim=True) / math.sqrt(logits_NC.shape[1] - 1)
    standard_NC: Tensor = centred_NC / (deviation + tiny)
    return standard_NC


@settings
class StandardizeLogits:
    """Standardise both sets of logits over classes (mean 0, standard deviation 1): only their pattern is matched."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="LogitStd, arXiv:2403.01427",
        says="The student need not reach the size of the teacher's logits, only their relations.",
        costs="One pass over the logits.",
        fails_when="Two classes: every pair of logits becomes the same two numbers. Calibration matters: confidence is "
        "not taught. The paper uses it with temperature 2 and weight 9.",
    )

    def __call__(self, student_logits_NC: Tensor, teacher_logits_NC: Any, /) -> tuple[Tensor, Tensor]:
        if student_logits_NC.shape[1] < 3:
            raise ShapeError(
                f"StandardizeLogits needs three classes or more, but the logits are {tuple(student_logits_NC.shape)}: "
                "with two, only their order would be left."
            )
        return standardize(student_logits_NC), standardize(teacher_logits_NC)


@settings
class TeacherPower:
    """Raise the teacher's probabilities to a power and rescale them to sum to one; the student's stay as they are.

    It is a temperature 1 / power on the teacher's side alone.

    Args:
        power: A power below 1 flattens the teacher's distribution.
    """

    power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.2

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="TTM, arXiv:2402.11148",
        says="The student at temperature 1 matches the softened teacher, which also limits its confidence.",
        costs="Nothing.",
        fails_when="Used together with a temperature on both: T^2 is then the wrong factor.",
    )

    def __call__(self, student_logits_NC: Tensor, teacher_logits_NC: Any, /) -> tuple[Tensor, Tensor]:
        return student_logits_NC, self.power * teacher_logits_NC


@settings
class WithoutLabel:
    """Remove the label's class from both distributions and rescale the rest to sum to one."""

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.LABELS,)
    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="DKD, arXiv:2203.08679 (non-target part)",
        says="Only the teacher's probabilities of the wrong classes.",
        costs="One gather over the logits.",
        fails_when="Labels are mixed (an error), or the teacher is wrong: its mistake is then taught. With two "
        "classes nothing is left.",
    )

    def __call__(self, student_logits_NC: Tensor, teacher_logits_NC: Any, /) -> tuple[Tensor, Tensor]:
        teacher, labels_N = teacher_logits_NC
        labels_N = class_numbers(student_logits_NC, labels_N, what="WithoutLabel")
        return without_label(student_logits_NC, labels_N), without_label(teacher, labels_N)


@settings
class SwapLabel:
    """Where the teacher is wrong, swap its largest logit with the logit of the label."""

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.LABELS,)
    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Knowledge adjustment, arXiv:1911.07471",
        says="The teacher never contradicts the label.",
        costs="Two writes over the teacher's logits.",
        fails_when="Labels are noisy; or the similarity of classes matters, which the swap distorts.",
    )

    def __call__(self, student_logits_NC: Tensor, teacher_logits_NC: Any, /) -> tuple[Tensor, Tensor]:
        teacher, labels_N = teacher_logits_NC
        labels_N = class_numbers(student_logits_NC, labels_N, what="SwapLabel")
        most = teacher.max(1, keepdim=True)
        swapped = teacher.scatter(1, most.indices, at_label(teacher, labels_N).unsqueeze(1))
        return student_logits_NC, swapped.scatter(1, labels_N.unsqueeze(1), most.values)


def needs_of(*parts: object) -> tuple[ObjectiveInput, ...]:
    """What several transforms and objectives together need in addition to the teacher's value."""
    return tuple(dict.fromkeys(what for part in parts for what in getattr(part, "needs", ())))


def side_of(part: object, values: Tensor, found: Mapping[ObjectiveInput, Tensor]) -> Any:
    """The teacher's side as a transform or an objective wants it: the values, with what it asks for behind them."""
    asked = needs_of(part)
    return (values, *(found[what] for what in asked)) if asked else values


def transformed(transform: Transform, student: Tensor, teacher: Tensor, found: Mapping[ObjectiveInput, Tensor]) -> Any:
    """The logits of both behind a transform, in at least 32 bits.

    Args:
        transform: What is done.
        student: Logits (N, C, ...).
        teacher: Logits of the same shape.
        found: What else they may need.

    Raises:
        ShapeError: the logits differ in shape, or are not (N, C, ...).
    """
    advice = "Logits are of shape (N, C, ...) with the same classes."
    require_same(student, teacher, what=type(transform).__name__, least=2, advice=advice)
    return transform(wide(student), side_of(transform, wide(teacher), found))


def found_inputs(part: object, teacher: Any) -> tuple[Tensor, dict[ObjectiveInput, Tensor]]:
    """The teacher's value and the additional inputs by kind, from the teacher's side of an objective."""
    asked = needs_of(part)
    values, *more = teacher if asked else (teacher,)
    return values, dict(zip(asked, more, strict=True))
