"""How close a student is to its teacher: does it decide alike, and does it believe alike?

Stanton, Izmailov, Kirichenko, Alemi & Wilson, Does Knowledge Distillation Really Work?, NeurIPS 2021, arXiv:2106.05945,
section 3: accuracy does not tell whether the teacher was matched; agreement and divergence do.

Shapes: N examples, C classes.
"""

from __future__ import annotations

from torch import Tensor

from lessen.core.errors import DataError, ShapeError
from lessen.measure.classification import percent
from lessen.measure.intervals import Estimate, mean_with_interval, wilson


def agreement(student_NC: Tensor, teacher_NC: Tensor) -> Estimate:
    """Share of examples on which both name the same class, in percent, with its Wilson interval.

    Raises:
        ShapeError: the logits are not both (N, C).
        DataError: there are no examples.
    """
    _check(student_NC, teacher_NC)
    same = int((student_NC.argmax(1) == teacher_NC.argmax(1)).sum())
    return percent(wilson(same, len(student_NC)))


def kl_to_teacher(student_NC: Tensor, teacher_NC: Tensor) -> Estimate:
    """Mean Kullback-Leibler divergence KL(teacher || student) at temperature 1, in nats, +- 1.96 standard errors.

    Zero when both believe the same. Errors as of `agreement`.
    """
    _check(student_NC, teacher_NC)
    student, teacher = student_NC.double().log_softmax(1), teacher_NC.double().log_softmax(1)
    # exp(-inf) * (-inf - x) would be NaN; a class the teacher rules out adds nothing.
    terms = teacher.exp() * (teacher - student)
    return mean_with_interval(terms.masked_fill(teacher.exp() == 0, 0.0).sum(1))


def _check(student_NC: Tensor, teacher_NC: Tensor) -> None:
    if student_NC.ndim != 2 or student_NC.shape != teacher_NC.shape:
        raise ShapeError(
            f"Got student logits of shape {tuple(student_NC.shape)} and teacher logits of shape "
            f"{tuple(teacher_NC.shape)}; expected the same (N, C)."
        )
    if len(student_NC) == 0:
        raise DataError("There are no examples; expected at least one.")
