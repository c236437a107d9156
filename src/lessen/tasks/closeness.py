"""How close the outputs of a network are to those of the original, whatever the task; labels are not needed.

Shapes: N examples, C classes, P positions, D numbers.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import ShapeError
from lessen.core.estimate import Estimate
from lessen.core.task import Meaning
from lessen.functional.intervals import bootstrap, mean_with_interval
from lessen.tasks.classification import percent
from lessen.tasks.fidelity import agreement, kl_to_teacher


def agreement_with(student: Tensor, teacher: Tensor, *, meaning: Meaning, class_axis: int = 1) -> Estimate | None:
    """Share of decisions that are equal, in percent, averaged over positions or labels; None if nothing is decided.

    Args:
        student: Shape (N, ...).
        teacher: The same shape.
        meaning: What outputs are.
        class_axis: The axis of classes.

    Raises:
        ShapeError: the two have different shapes.
    """
    _check(student, teacher)
    if meaning is Meaning.NUMBERS:
        return None
    if meaning is Meaning.INDEPENDENT:
        return percent(mean_with_interval(((student > 0) == (teacher > 0)).double().reshape(len(student), -1).mean(1)))
    if student.ndim == 2:
        return agreement(student, teacher)
    same = student.argmax(class_axis) == teacher.argmax(class_axis)
    return percent(mean_with_interval(same.double().flatten(1).mean(1)))


def divergence_from(student: Tensor, teacher: Tensor, *, meaning: Meaning, class_axis: int = 1) -> Estimate | None:
    """KL(teacher || student) at temperature 1, in nat, averaged over positions or labels; None without probabilities.

    Args and errors as of `agreement_with`.
    """
    _check(student, teacher)
    if meaning is Meaning.NUMBERS:
        return None
    if meaning is Meaning.INDEPENDENT:
        theirs, no = teacher.float().sigmoid(), (-teacher.float()).sigmoid()
        entropy = theirs * F.logsigmoid(teacher.float()) + no * F.logsigmoid(-teacher.float())
        cross = theirs * F.logsigmoid(student.float()) + no * F.logsigmoid(-student.float())
        return mean_with_interval((entropy - cross).reshape(len(student), -1).mean(1))
    if student.ndim == 2:
        return kl_to_teacher(student, teacher)
    ours, theirs = student.float().log_softmax(class_axis), teacher.float().log_softmax(class_axis)
    terms = (theirs.exp() * (theirs - ours)).masked_fill(theirs.exp() == 0, 0.0).sum(class_axis)
    return mean_with_interval(terms.flatten(1).mean(1))


def cosine_to(student: Tensor, teacher: Tensor) -> Estimate:
    """The cosine between the outputs of both for an example, averaged over its positions where it has several.

    Positions are the axes between the first and the last. Outputs of one number an example are compared as one vector
    over all examples, around the teacher's mean.

    Raises:
        ShapeError: the two have different shapes.
    """
    _check(student, teacher)
    ours, theirs = student.double(), teacher.double()
    if ours[0].numel() == 1:
        ours, theirs = ours.flatten(), theirs.flatten()
        centre = theirs.mean()
        return bootstrap(
            lambda index_N: float(F.cosine_similarity(ours[index_N] - centre, theirs[index_N] - centre, dim=0)),
            len(ours),
        )
    if ours.ndim == 4:
        ours, theirs = ours.flatten(1), theirs.flatten(1)
    cosine = F.cosine_similarity(ours, theirs, dim=-1)
    return mean_with_interval(cosine.reshape(len(cosine), -1).mean(1))


def error_to(student: Tensor, teacher: Tensor) -> Estimate:
    """Mean squared difference over the variance of the teacher's outputs: 0 is equal, 1 as far as their mean is.

    Raises:
        ShapeError: the two have different shapes.
    """
    _check(student, teacher)
    ours, theirs = student.double().flatten(1), teacher.double().flatten(1)
    variance = float((theirs - theirs.mean(0)).square().mean()) if len(theirs) > 1 else float(theirs.square().mean())
    found = mean_with_interval((ours - theirs).square().mean(1))
    if variance <= 0:
        return Estimate(0.0 if found.value == 0 else math.inf)
    low, high = (None if end is None else end / variance for end in (found.low, found.high))
    return Estimate(found.value / variance, low, high)


def _check(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise ShapeError(
            f"Outputs of shape {tuple(student.shape)} cannot be compared with those of the original, of shape "
            f"{tuple(teacher.shape)}."
        )
