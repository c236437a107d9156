"""How close a student is to its teacher: does it decide alike, believe alike, and how much accuracy did it cost?

Stanton, Izmailov, Kirichenko, Alemi & Wilson, Does Knowledge Distillation Really Work?, NeurIPS 2021, arXiv:2106.05945,
section 3: accuracy does not tell whether the teacher was matched; agreement and divergence do.
Agresti & Min, Simple improved confidence intervals for comparing matched proportions, Statistics in Medicine 2005.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import math

from torch import Tensor

from lessen.core.errors import DataError, ShapeError
from lessen.core.estimate import Estimate
from lessen.functional.intervals import Z, mean_with_interval, wilson
from lessen.tasks.classification import check_labels, decide, percent


def agreement(student_NC: Tensor, teacher_NC: Tensor) -> Estimate:
    """Share of examples on which both name the same class, in percent, with its Wilson interval.

    Raises:
        ShapeError: the logits are not both (N, C).
        DataError: there are no examples.
    """
    _check(student_NC, teacher_NC)
    student_N, teacher_N = decide(student_NC), decide(teacher_NC)
    same = int(((student_N == teacher_N) & (student_N >= 0)).sum())
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


def accuracy_change(student_NC: Tensor, teacher_NC: Tensor, labels_N: Tensor) -> Estimate:
    """Accuracy of the student less the teacher's, in percentage points, on the same examples.

    The interval is the paired one of Agresti & Min: only examples on which the two differ widen it, so it is narrower
    than what the two separate accuracies suggest. Below zero the student is worse.

    Raises:
        ShapeError: the logits are not both (N, C), or the labels not (N,).
        DataError: a label is outside [0, C), or there are no examples.
    """
    _check(student_NC, teacher_NC)
    check_labels(student_NC, labels_N)
    return percent(paired_shares(decide(student_NC) == labels_N, decide(teacher_NC) == labels_N))


def paired_shares(student_N: Tensor, teacher_N: Tensor) -> Estimate:
    """The share of True in one less that in the other, with the paired interval of Agresti & Min.

    Args:
        student_N: Shape (N,), bool.
        teacher_N: The same examples.
    """
    gained, lost = int((student_N & ~teacher_N).sum()), int((~student_N & teacher_N).sum())
    count = len(student_N)
    value = (gained - lost) / count
    # Half an example more in each of the four cells keeps the interval honest where few or none differ.
    centre = (gained - lost) / (count + 2)
    half = Z * math.sqrt((gained + lost + 1) - (gained - lost) ** 2 / (count + 2)) / (count + 2)
    return Estimate(value, min(centre - half, value), max(centre + half, value))


def _check(student_NC: Tensor, teacher_NC: Tensor) -> None:
    if student_NC.ndim != 2 or student_NC.shape != teacher_NC.shape:
        raise ShapeError(
            f"Got student logits of shape {tuple(student_NC.shape)} and teacher logits of shape "
            f"{tuple(teacher_NC.shape)}; expected the same (N, C)."
        )
    if len(student_NC) == 0:
        raise DataError("There are no examples; expected at least one.")
