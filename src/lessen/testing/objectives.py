"""The laws of objectives, as a base class for tests: subclass it, list cases, and each law runs on each case.

    class TestMine(ObjectiveLaws):
        invariances = (scaled,)

        @classmethod
        def cases(cls):
            yield ObjectiveCase(objective=Mine(), student=torch.randn(5, 10), teacher=torch.randn(5, 10))

Shapes: N examples along axis 0 of both taps.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Card, Objective, decode, encode
from lessen.core.errors import ShapeError

Pair = tuple[Tensor, Tensor]
Invariance = Callable[[Tensor, Tensor], Pair]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveCase:
    """One objective and two taps that it compares.

    Args:
        objective: With its settings.
        student: The student's tap, float, N of at least 3 examples that differ.
        teacher: The teacher's tap: float, or whole numbers where it is labels.
        equal: Two taps at which the loss is as low as it can be; None takes the teacher's tap for both.
        floor: The loss there: one number, or one for each example.
    """

    objective: Objective
    student: Tensor
    teacher: Tensor
    equal: Pair | None = None
    floor: float | Tensor = 0.0

    def at_equality(self) -> Pair:
        """The two taps at which the loss is at its floor."""
        return (self.teacher, self.teacher) if self.equal is None else self.equal

    def __str__(self) -> str:
        return f"{self.objective!r}-{tuple(self.student.shape)}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class End:
    """The end of a setting's range, where nothing may jump.

    Args:
        make: From a value of the setting to the objective.
        end: The end itself, which must be allowed.
        inside: A value near it.
    """

    make: Callable[[float], Objective]
    end: float
    inside: float


class ObjectiveLaws:
    """What every objective promises. The case of a law that fails says which objective and shapes.

    Attributes:
        invariances: Changes of both taps that must not change the loss.
        ends: Ends of settings where the loss must be continuous.
        wrong: Pairs of taps that do not fit; each must be a `ShapeError` that names both shapes.
        largest: How large logits of half precision get in `test_half_precision_stays_finite`.
        differentiable: False for an objective with no gradient to check.
    """

    invariances: ClassVar[Sequence[Invariance]] = ()
    ends: ClassVar[Sequence[End]] = ()
    wrong: ClassVar[Sequence[Pair]] = ()
    largest: ClassVar[float] = 50.0
    differentiable: ClassVar[bool] = True

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        """The cases. At least one; cover every setting that changes the formula, and every number of axes."""
        raise NotImplementedError(f"{cls.__name__} must list its cases")

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run each law on each case."""
        if "case" in metafunc.fixturenames:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                cases = list(self.cases())
            metafunc.parametrize("case", cases, ids=str)

    def test_it_keeps_the_contract(self, case: ObjectiveCase) -> None:
        assert isinstance(case.objective, Objective)
        assert isinstance(case.objective.card, Card)
        assert case.student.shape[0] == case.teacher.shape[0] >= 3, "a case needs three examples or more"

    def test_one_finite_loss_for_each_example(self, case: ObjectiveCase) -> None:
        for dtype in (torch.float32, torch.float64):
            loss = _loss(case, *_as(dtype, case.student, case.teacher))
            assert loss.shape == (len(case.student),)
            assert loss.dtype == dtype
            assert bool(torch.isfinite(loss).all())

    def test_nothing_is_lost_at_equality_and_never_less(self, case: ObjectiveCase) -> None:
        floor = torch.as_tensor(case.floor, dtype=torch.float64)
        equal = _loss(case, *_as(torch.float64, *case.at_equality()))
        assert torch.allclose(equal, floor.expand_as(equal), rtol=1e-6, atol=1e-6), f"{equal} at equality, not {floor}"
        loss = _loss(case, *_as(torch.float64, case.student, case.teacher))
        assert bool((loss >= torch.as_tensor(floor).min() - 1e-9).all()), f"{loss} is below the floor {floor}"

    def test_examples_may_come_in_any_order(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        order = torch.arange(len(student)).roll(1)
        moved = _loss(case, student[order], teacher[order])
        assert torch.allclose(moved, _loss(case, student, teacher)[order], rtol=1e-9, atol=1e-12)

    def test_one_example_sees_another_only_if_relational(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        other = student.clone()
        other[0] = student[1]
        before, after = _loss(case, student, teacher)[1:], _loss(case, other, teacher)[1:]
        same = torch.allclose(before, after, rtol=1e-9, atol=1e-12)
        relational = bool(getattr(case.objective, "relational", False))
        assert same != relational, "relational objectives see the batch, others must not: declare it"
        if not relational:
            alone = _loss(case, student[:1], teacher[:1])
            assert torch.allclose(alone, _loss(case, student, teacher)[:1], rtol=1e-9, atol=1e-12)

    def test_gradients_are_right_on_both_sides(self, case: ObjectiveCase) -> None:
        if not self.differentiable:
            pytest.skip("declared to have no gradient")
        objective = _double(case.objective)
        student = case.student.detach().double().requires_grad_()
        teacher = case.teacher
        if teacher.is_floating_point():
            # Detaching is the edge's business: an objective that does it cannot teach both ways.
            teacher = teacher.detach().double().requires_grad_()
        assert torch.autograd.gradcheck(objective, (student, teacher), eps=1e-6, atol=1e-5)

    def test_taps_are_not_written_to(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        before = (student.clone(), teacher.clone())
        _loss(case, student, teacher)
        assert torch.equal(student, before[0])
        assert torch.equal(teacher, before[1])

    def test_what_must_not_matter_does_not(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        loss = _loss(case, student, teacher)
        for change in self.invariances:
            changed = _loss(case, *change(student, teacher))
            assert torch.allclose(changed, loss, rtol=1e-6, atol=1e-9), getattr(change, "__name__", change)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_stays_finite(self, case: ObjectiveCase, dtype: torch.dtype) -> None:
        scale = self.largest / float(case.student.abs().max())
        student = (case.student * scale).to(dtype).requires_grad_()
        teacher = case.teacher
        if teacher.is_floating_point() and not _is_distribution(teacher):
            teacher = -teacher * (self.largest / float(teacher.abs().max()))
        teacher = teacher.to(dtype) if teacher.is_floating_point() else teacher
        loss = _loss(case, student, teacher, grad=self.differentiable)
        assert loss.dtype == dtype
        assert bool(torch.isfinite(loss).all()), loss
        if self.differentiable:
            (gradient,) = torch.autograd.grad(loss.float().sum(), student)
            assert bool(torch.isfinite(gradient).all())

    def test_it_survives_copying_and_files(self, case: ObjectiveCase) -> None:
        objective = case.objective
        copies: list[Any] = [pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)]  # noqa: S301
        if not isinstance(objective, nn.Module):
            names = _classes(objective)
            data = encode(objective)
            copies += [eval(repr(objective), dict(names)), decode(data, names)]
            assert all(other == objective for other in copies)
        loss = _loss(case, *_as(torch.float64, case.student, case.teacher))
        for other in copies:
            again = dataclasses.replace(case, objective=other)
            assert torch.equal(_loss(again, *_as(torch.float64, case.student, case.teacher)), loss)

    def test_shapes_that_do_not_fit_are_named(self) -> None:
        objective = next(iter(self.cases())).objective
        assert self.wrong, "list at least one pair of taps that do not fit"
        for student, teacher in self.wrong:
            with pytest.raises(ShapeError) as error:
                objective(student, teacher)
            for tap in (student, teacher):
                assert str(tuple(tap.shape)) in str(error.value)

    def test_nothing_jumps_at_the_ends_of_settings(self) -> None:
        case = next(iter(self.cases()))
        student, teacher = _as(torch.float64, case.student, case.teacher)
        for end in self.ends:
            at, near = end.make(end.end)(student, teacher), end.make(end.inside)(student, teacher)
            tolerance = 10 * abs(end.inside - end.end) * (1 + float(at.abs().max()))
            assert float((at - near).abs().max()) <= tolerance, f"{near} jumps to {at}"


def _loss(case: ObjectiveCase, student: Tensor, teacher: Tensor, *, grad: bool = False) -> Tensor:
    objective = _double(case.objective) if student.dtype == torch.float64 else case.objective
    with torch.set_grad_enabled(grad):
        loss: Tensor = objective(student, teacher)
    return loss


def _double(objective: Objective) -> Any:
    return copy.deepcopy(objective).double() if isinstance(objective, nn.Module) else objective


def _as(dtype: torch.dtype, *taps: Tensor) -> tuple[Tensor, ...]:
    return tuple(tap.detach().to(dtype) if tap.is_floating_point() else tap for tap in taps)


def _is_distribution(tap: Tensor) -> bool:
    return tap.ndim > 1 and bool((tap >= 0).all()) and math.isclose(float(tap.sum(1).mean()), 1.0, abs_tol=1e-4)


def _classes(value: Any) -> dict[str, type]:
    """The settings classes that a settings object is made of."""
    found: dict[str, type] = {}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found[type(value).__name__] = type(value)
        for field in dataclasses.fields(value):
            found |= _classes(getattr(value, field.name))
    elif isinstance(value, list | tuple):
        for item in value:
            found |= _classes(item)
    return found
