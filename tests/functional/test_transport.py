"""Optimal transport against a linear program, one example at a time."""

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor

from lessen.core import decode, encode
from lessen.core.errors import SettingError, ShapeError
from lessen.functional import group_transport, line_transport, matrix_transport, total_variation
from lessen.functional.transport import potentials
from lessen.knowledge import ClassesInGroups, ClassesOnALine, CostMatrix, EveryMistakeAlike, Wasserstein

CLASSES = 5
PLACES = (0.0, 0.5, 2.0, 3.0, 7.0)
GROUPS = (0, 1, 0, 2, 1)


def logs(count: int = 4, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    both = 2 * torch.randn(2, count, classes, dtype=torch.float64)
    return both[0].log_softmax(1), both[1].log_softmax(1)


def program(first: Tensor, second: Tensor, cost: Tensor) -> Tensor:
    """The least cost over all plans whose margins are the two, by a simplex method."""
    size = len(cost)
    rows = np.kron(np.eye(size), np.ones(size))
    columns = np.kron(np.ones(size), np.eye(size))
    found = [
        scipy.optimize.linprog(
            cost.numpy().ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a.numpy(), b.numpy()])
        ).fun
        for a, b in zip(first, second, strict=True)
    ]
    return torch.tensor(found, dtype=torch.float64)


def line_cost() -> Tensor:
    places = torch.tensor(PLACES, dtype=torch.float64)
    return (places[:, None] - places).abs()


def group_cost(near: float) -> Tensor:
    groups = torch.tensor(GROUPS)
    cost = torch.where(groups[:, None] == groups, near, 1.0).double()
    return cost.fill_diagonal_(0.0)


def test_a_cost_of_one_is_total_variation_exactly() -> None:
    student, teacher = logs()
    alike = torch.ones(CLASSES, CLASSES) - torch.eye(CLASSES)
    rows = tuple(tuple(row) for row in alike.tolist())
    expected = total_variation(student, teacher)
    assert torch.equal(Wasserstein()(student, teacher), expected)
    assert torch.equal(Wasserstein(cost=CostMatrix(rows=rows))(student, teacher), expected)
    one_group = ClassesInGroups(groups=(0,) * CLASSES, near=1.0)
    own_groups = ClassesInGroups(groups=tuple(range(CLASSES)), near=0.5)
    for cost in (EveryMistakeAlike(), one_group, own_groups):
        assert torch.allclose(Wasserstein(cost=cost)(student, teacher), expected, rtol=1e-12)
    assert torch.allclose(program(student.exp(), teacher.exp(), alike.double()), expected)
    # Planted: classes on a line are not alike.
    assert not torch.allclose(Wasserstein(cost=ClassesOnALine())(student, teacher), expected, rtol=1e-2)


def test_on_a_line_and_in_groups_it_is_the_linear_program() -> None:
    student, teacher = (log.exp() for log in logs())
    places = torch.tensor(PLACES, dtype=torch.float64)
    line = program(student, teacher, line_cost())
    assert torch.allclose(line_transport(student, teacher, places), line)
    for near in (0.0, 0.3, 1.0):
        groups = program(student, teacher, group_cost(near))
        assert torch.allclose(group_transport(student, teacher, torch.tensor(GROUPS), groups=3, near=near), groups)
    # Planted: the distance between means is no more than the transport, and less here.
    assert not torch.allclose(((student - teacher) @ places).abs(), line, rtol=1e-2)
    assert not torch.allclose(group_transport(student, teacher, torch.tensor(GROUPS), groups=3, near=0.5), groups)


def entropic(first: Tensor, second: Tensor, cost: Tensor, entropy: float) -> float:
    """The primal problem, <plan, cost> + entropy KL(plan || product), by a general solver over plans."""
    size = len(cost)
    product = torch.outer(first, second).numpy().ravel()
    margins = np.vstack([np.kron(np.eye(size), np.ones(size)), np.kron(np.ones(size), np.eye(size))])
    wanted = np.concatenate([first.numpy(), second.numpy()])

    def value(plan: np.ndarray) -> float:  # type: ignore[type-arg]
        plan = np.maximum(plan, 1e-12)
        return float((plan * cost.numpy().ravel()).sum() + entropy * (plan * np.log(plan / product)).sum())

    def slope(plan: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return cost.numpy().ravel() + entropy * (np.log(np.maximum(plan, 1e-12) / product) + 1)

    limits = scipy.optimize.LinearConstraint(margins[:-1], wanted[:-1], wanted[:-1])
    found = scipy.optimize.minimize(
        value,
        product,
        jac=slope,
        hess=lambda plan: np.diag(entropy / np.maximum(plan, 1e-12)),
        method="trust-constr",
        constraints=[limits],
        bounds=[(1e-12, 1)] * size**2,
        options={"xtol": 1e-12, "gtol": 1e-10},
    )
    return float(found.fun)


def test_any_cost_is_the_debiased_entropic_problem() -> None:
    student, teacher = (log.exp() for log in logs(2, 3))
    cost = torch.tensor([[0.0, 1.0, 1.5], [1.0, 0.0, 0.7], [1.5, 0.7, 0.0]], dtype=torch.float64)
    blur = 0.2
    got = matrix_transport(student, teacher, cost, blur=blur)
    for number in range(2):
        s, t = student[number], teacher[number]
        between, own_s, own_t = (entropic(a, b, cost, blur * 1.5) for a, b in ((s, t), (s, s), (t, t)))
        assert float(got[number]) == pytest.approx(between - (own_s + own_t) / 2, abs=1e-5)
        # Planted: not debiased, as released code is.
        assert float(got[number]) != pytest.approx(between, rel=1e-2)


def test_less_blur_is_nearer_to_the_linear_program() -> None:
    student, teacher = (log.exp() for log in logs())
    expected = program(student, teacher, line_cost())
    errors = [
        float((matrix_transport(student, teacher, line_cost(), blur=blur) / expected - 1).abs().max())
        for blur in (1.0, 0.3, 0.1)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.4
    assert errors[0] > 0.5


@pytest.mark.parametrize("spread", [0.1, 1.5, 5.0, 25.0])
def test_the_problem_is_solved_however_sure_the_two_are(spread: float) -> None:
    torch.manual_seed(0)
    first, second = (spread * torch.randn(2, 32, CLASSES, dtype=torch.float64)).softmax(2)
    entropy = 0.1 * float(line_cost().max())

    def margins(most: int) -> float:
        left, right = potentials(first, second, line_cost(), entropy, most=most)
        plan = ((left[:, :, None] + right[:, None] - line_cost()) / entropy).exp() * first[:, :, None] * second[:, None]
        return float((plan.sum(2) - first).abs().max() + (plan.sum(1) - second).abs().max())

    assert margins(60) < 1e-9
    assert margins(1) > 1e-6  # planted: stopped early


def test_the_gradient_is_that_of_the_solved_problem() -> None:
    logits = [log.requires_grad_() for log in logs(2, 3)]
    cost = torch.tensor([[0.0, 1.0, 1.5], [1.0, 0.0, 0.7], [1.5, 0.7, 0.0]], dtype=torch.float64)

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return matrix_transport(student.softmax(1), teacher.softmax(1), cost, blur=0.1)

    assert torch.autograd.gradcheck(loss, logits)


def test_single_precision_is_enough_at_the_smallest_blur() -> None:
    student, teacher = (log.exp() for log in logs(64))
    exact = matrix_transport(student, teacher, line_cost(), blur=0.1)
    single = matrix_transport(student.float(), teacher.float(), line_cost().float(), blur=0.1)
    assert torch.allclose(single.double(), exact, rtol=1e-4, atol=1e-5)


def test_positions_are_kept() -> None:
    student, teacher = (log.exp() for log in logs(6))
    places, groups = torch.tensor(PLACES, dtype=torch.float64), torch.tensor(GROUPS)
    grids = [p.view(2, 3, CLASSES).movedim(2, 1) for p in (student, teacher)]
    for function in (
        lambda s, t: line_transport(s, t, places),
        lambda s, t: group_transport(s, t, groups, groups=3, near=0.3),
        lambda s, t: matrix_transport(s, t, line_cost(), blur=0.1),
    ):
        assert torch.allclose(function(*grids), function(student, teacher).view(2, 3))


def test_costs_are_checked_and_written_to_files() -> None:
    with pytest.raises(SettingError, match="increase"):
        ClassesOnALine(places=(0.0, 2.0, 1.0))
    for rows in (((0.0,),), ((0.0, 1.0), (2.0, 0.0)), ((1.0, 1.0), (1.0, 0.0)), ((0.0, 0.0), (0.0, 0.0))):
        with pytest.raises(SettingError, match="rows"):
            CostMatrix(rows=rows)
    student, teacher = logs()
    for cost in (ClassesOnALine(places=(0.0, 1.0)), ClassesInGroups(groups=(0, 1)), CostMatrix(rows=((0, 1), (1, 0)))):
        with pytest.raises(ShapeError, match="5 classes"):
            Wasserstein(cost=cost)(student, teacher)
        known = {type(cost).__name__: type(cost), "Wasserstein": Wasserstein}
        assert decode(encode(Wasserstein(cost=cost)), known) == Wasserstein(cost=cost)
