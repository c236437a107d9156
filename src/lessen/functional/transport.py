"""Optimal transport between two distributions over classes: what it costs to move one onto the other.

Where the cost is a metric of a line or of a tree the value is exact and takes one pass (Vallender 1974; Evans & Matsen,
JRSS B 2012); for any other symmetric cost it is the debiased entropic transport of Feydy et al., AISTATS 2019,
arXiv:1810.08278, solved as in Brauer et al., A Sinkhorn-Newton method for entropic optimal transport, arXiv:1710.06635.

Shapes: N examples, C classes along axis 1, G groups, P pairs to compare; further axes are positions and are kept:
(N, C, ...) to (N, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor


def line_transport(student_NC: Tensor, teacher_NC: Tensor, places_C: Tensor) -> Tensor:
    """The Wasserstein-1 distance for classes at increasing places on a line: the area between the two cumulative sums.

    >>> places = torch.tensor([0.0, 1.0, 3.0])
    >>> line_transport(torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 0.0, 1.0]]), places)
    tensor([3.])
    """
    ahead_NC = (student_NC - teacher_NC).cumsum(1)[:, :-1]
    gaps_C = places_C.diff().view(1, -1, *(1,) * (ahead_NC.ndim - 2))
    return (ahead_NC.abs() * gaps_C).sum(1)


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


def matrix_transport(student_NC: Tensor, teacher_NC: Tensor, cost_CC: Tensor, *, blur: float) -> Tensor:
    """The debiased entropic transport for any symmetric cost: zero at equality, nearer to Wasserstein-1 for less blur.

    It is never negative where exp(-cost / blur) is positive definite, as for distances between points. The gradient is
    that of the solved problem (Danskin), so no iteration is kept in memory: O(N C^2) while it is solved.

    Args:
        student_NC: Probabilities.
        teacher_NC: Probabilities.
        cost_CC: Symmetric, zeros on the diagonal.
        blur: The weight of the entropy as a share of the largest cost, from 0.1 to 1. Below that it may stay unsolved.
    """
    shape = student_NC.movedim(1, -1).shape[:-1]
    student_PC, teacher_PC = (p.movedim(1, -1).flatten(0, -2) for p in (student_NC, teacher_NC))
    with torch.no_grad():
        first = torch.cat([student_PC, student_PC, teacher_PC])
        second = torch.cat([teacher_PC, student_PC, teacher_PC])
        cost = cost_CC.double()
        left, right = potentials(first.double(), second.double(), cost, blur * float(cost.max()))
        to_teacher, student_left, teacher_left = left.chunk(3)
        to_student, student_right, teacher_right = right.chunk(3)
        of_student = (to_teacher - (student_left + student_right) / 2).to(student_NC.dtype)
        of_teacher = (to_student - (teacher_left + teacher_right) / 2).to(student_NC.dtype)
    # At the optimum the potentials are the gradient, and do not move to first order: they are constants here.
    value_P = (student_PC * of_student).sum(1) + (teacher_PC * of_teacher).sum(1)
    return value_P.view(shape)


def potentials(
    first_PC: Tensor, second_PC: Tensor, cost_CC: Tensor, entropy: float, *, most: int = 60
) -> tuple[Tensor, Tensor]:
    """The dual solution of min <plan, cost> + entropy KL(plan || product) over plans with these margins.

    Newton's method on the first potential, with a step of Sinkhorn's wherever that does better: near the solution it
    doubles the digits each time, where Sinkhorn's iteration alone can take thousands of steps for a tenth of a digit.
    """
    # A class that is nearly impossible moves nothing, and its logarithm must be a number.
    first_PC, second_PC = first_PC.clamp(min=1e-20), second_PC.clamp(min=1e-20)
    identity = torch.eye(len(cost_CC), dtype=first_PC.dtype, device=first_PC.device)

    def answer(potential_PC: Tensor, margin_PC: Tensor) -> Tensor:
        inside = (potential_PC / entropy + margin_PC.log()).unsqueeze(2) - cost_CC / entropy
        return -entropy * inside.logsumexp(1)

    def dual(left_PC: Tensor) -> tuple[Tensor, Tensor]:
        right_PC = answer(left_PC, first_PC)
        return (first_PC * left_PC).sum(1) + (second_PC * right_PC).sum(1), right_PC

    left_PC = torch.zeros_like(first_PC)
    _, right_PC = dual(left_PC)
    for _ in range(most):
        inside = (left_PC.unsqueeze(2) + right_PC.unsqueeze(1) - cost_CC) / entropy
        plan_PCC = (first_PC.log().unsqueeze(2) + second_PC.log().unsqueeze(1) + inside).exp()
        margin_PC = plan_PCC.sum(2).clamp(min=1e-300)
        if float((margin_PC - first_PC).abs().sum(1).max()) < 1e-11:
            break
        # The Hessian, scaled to a unit diagonal; the potential's free constant is held by the last term.
        root_PC = margin_PC.sqrt()
        scaled_PCC = plan_PCC / root_PC.unsqueeze(2) / second_PC.sqrt().unsqueeze(1)
        held_PCC = root_PC.unsqueeze(2) * root_PC.unsqueeze(1)
        hessian_PCC = identity - scaled_PCC @ scaled_PCC.transpose(1, 2) + held_PCC
        step_PC = torch.linalg.solve_ex(hessian_PCC, entropy * (first_PC - margin_PC) / root_PC).result / root_PC
        newton = left_PC + step_PC
        sinkhorn = left_PC + entropy * (first_PC.log() - margin_PC.log())
        (of_newton, right_newton), (of_sinkhorn, right_sinkhorn) = dual(newton), dual(sinkhorn)
        # Near the solution the two differ by rounding alone. False where Newton's is not a number.
        better_P = (of_newton - of_sinkhorn >= -1e-12 * entropy).unsqueeze(1)
        left_PC, right_PC = newton.where(better_P, sinkhorn), right_newton.where(better_P, right_sinkhorn)
    return answer(right_PC, second_PC), right_PC
