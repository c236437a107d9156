"""Optimal transport between two distributions over classes: what it costs to move one onto the other.

Where the cost is a metric of a line or of a tree the value is exact and takes one pass (Vallender 1974; Evans & Matsen,
JRSS B 2012); for any other symmetric cost it is the debiased entropic transport of Feydy et al., AISTATS 2019,
arXiv:1810.08278.

Shapes: N examples, C classes along axis 1, G groups, P pairs to compare; further axes are positions and are kept:
(N, C, ...) to (N, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor


def line_transport(student_NC: Tensor, teacher_NC: Tensor, places_C: Tensor) -> Tensor:
    """The Wasserstein-1 distance where classes stand in rising places on a line: the area between the two sums.

    >>> places = torch.tensor([0.0, 1.0, 3.0])
    >>> line_transport(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]), places)
    tensor([3.])
    """
    ahead_NC = (student_NC - teacher_NC).cumsum(1)[:, :-1]
    return torch.einsum("nc...,c->n...", ahead_NC.abs(), places_C.diff())


def group_transport(student_NC: Tensor, teacher_NC: Tensor, groups_C: Tensor, *, groups: int, near: float) -> Tensor:
    """The Wasserstein-1 distance where classes of one group are `near` and any others are 1 apart; 0 <= near <= 1.

    Args:
        student_NC: Probabilities.
        teacher_NC: Probabilities.
        groups_C: The group of each class, numbers from 0.
        groups: How many groups there are.
        near: The cost between two classes of one group.
    """
    difference_NC = student_NC - teacher_NC
    shape = (len(difference_NC), groups, *difference_NC.shape[2:])
    difference_NG = difference_NC.new_zeros(shape).index_add(1, groups_C, difference_NC)
    return (near * difference_NC.abs().sum(1) + (1 - near) * difference_NG.abs().sum(1)) / 2


def matrix_transport(
    student_NC: Tensor, teacher_NC: Tensor, cost_CC: Tensor, *, blur: float, most: int = 500
) -> Tensor:
    """The debiased entropic transport for any symmetric cost: zero at equality, near Wasserstein-1 for a small blur.

    It is never negative where exp(-cost / blur) is positive definite, as for distances between points. The gradient is
    that of the solved problem (Danskin), so no iteration is kept in memory: O(N C) beside the cost.

    Args:
        student_NC: Probabilities.
        teacher_NC: Probabilities.
        cost_CC: Symmetric, zeros on the diagonal.
        blur: The weight of the entropy as a share of the largest cost; below 1 / 60 single precision runs out.
        most: Where to stop if the potentials still move.
    """
    shape = student_NC.movedim(1, -1).shape[:-1]
    student_PC, teacher_PC = (p.movedim(1, -1).flatten(0, -2) for p in (student_NC, teacher_NC))
    entropy = blur * float(cost_CC.max())
    kernel_CC = (-cost_CC / entropy).exp()
    with torch.no_grad():
        of_student, of_teacher = _potentials(student_PC, teacher_PC, kernel_CC, entropy, most)
        of_student = of_student - _potentials(student_PC, student_PC, kernel_CC, entropy, most)[0]
        of_teacher = of_teacher - _potentials(teacher_PC, teacher_PC, kernel_CC, entropy, most)[0]
    # At the optimum the potentials are the gradient, and do not move to first order: they are constants here.
    value_P = (student_PC * of_student).sum(1) + (teacher_PC * of_teacher).sum(1)
    return value_P.view(shape)


def _potentials(
    first_PC: Tensor, second_PC: Tensor, kernel_CC: Tensor, entropy: float, most: int
) -> tuple[Tensor, Tensor]:
    """The dual solution of transport between two distributions, by Sinkhorn's iteration on its logarithms.

    Both are moved halfway at once, which keeps the problem of a distribution with itself symmetric, and converges
    there in a few steps.
    """

    def answer(potential_PC: Tensor, weights_PC: Tensor) -> Tensor:
        return -entropy * torch.log((weights_PC * (potential_PC / entropy).exp()) @ kernel_CC)

    on_first, on_second = torch.zeros_like(first_PC), torch.zeros_like(second_PC)
    enough = 4 * torch.finfo(first_PC.dtype).eps * max(entropy, 1.0)
    for _ in range(most):
        next_first = (on_first + answer(on_second, second_PC)) / 2
        on_second = (on_second + answer(on_first, first_PC)) / 2
        moved = (next_first - on_first).abs().max()
        on_first = next_first
        if moved < enough:
            break
    # A full step on each side from the same state: then nothing of the mass constraint is left in the value.
    return answer(on_second, second_PC), answer(on_first, first_PC)
