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
import functools
import math
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Card, LearnedObjective, Objective, TaskFacts, decode, encode
from lessen.core.errors import ShapeError
from lessen.surgery.values import leaves, map_values, shapes_of

Value = Tensor | tuple[Any, ...]
"""A tap, or a tuple of taps, or a teacher's taps with the additional inputs."""
Pair = tuple[Any, Any]
Invariance = Callable[[Any, Any], Pair]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectiveCase:
    """One objective and two taps that it compares.

    Args:
        objective: With its settings.
        student: The student's tap or taps, float, N of at least 3 examples that differ.
        teacher: The teacher's, with the additional inputs: float, or integers if they are labels.
        equal: Two sides at which the loss is as low as it can be; None takes the teacher's taps for both.
        floor: The loss there: one number, or one for each example; None where the lowest loss is not known.
        made_by: The settings that made the objective, where it has state of its own.
        held: Where a part of the loss is a constant on purpose, as a weight measured on the student: from two sides to
            the same loss, differentiable all through, with that part as it is at these sides.
    """

    objective: Objective
    student: Value
    teacher: Value
    equal: Pair | None = None
    floor: float | Tensor | None = 0.0
    made_by: LearnedObjective | None = None
    held: Callable[[Any, Any], Callable[[Any, Any], Tensor]] | None = None

    def __len__(self) -> int:
        return len(next(leaves(self.student)))

    def at_equality(self) -> Pair:
        """The two sides at which the loss is at its floor."""
        if self.equal is not None:
            return self.equal
        taps = self.teacher[0] if getattr(self.objective, "needs", ()) else self.teacher
        return taps, self.teacher

    def __str__(self) -> str:
        made = self.objective if self.made_by is None else self.made_by
        return f"{made!r}-{shapes_of(self.student)}"


def learned(
    settings: LearnedObjective, student: Value, teacher: Value, *, task: TaskFacts | None = None, **more: Any
) -> ObjectiveCase:
    """A case of an objective with state of its own, built for the two sides as an edge would build it, in eval mode.

    Args:
        settings: What makes the objective.
        student: The student's tap or taps.
        teacher: The teacher's, with the additional inputs.
        task: What the objective is told; None: 64 examples of 10 classes.
        more: Of the case.
    """
    needs = bool(getattr(settings, "needs", ()))
    shapes = shapes_of(student), shapes_of(teacher[0] if needs else teacher)
    objective: Any = settings.objective_for(*shapes, task or TaskFacts(examples=64, classes=10)).eval()
    return ObjectiveCase(objective=objective, student=student, teacher=teacher, made_by=settings, **more)


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
        counts = {len(leaf) for leaf in (*leaves(case.student), *leaves(case.teacher))}
        assert counts == {len(case)}, "every tap has its examples along axis 0"
        assert len(case) >= 3, "a case needs three examples or more"
        if case.made_by is not None:
            assert isinstance(case.made_by, LearnedObjective)
            assert isinstance(case.objective, nn.Module)
            same = ("card", "relational", "needs")
            assert all(getattr(case.made_by, n, None) == getattr(case.objective, n, None) for n in same), (
                f"the settings and what they build must agree on {same}"
            )

    def test_one_finite_loss_for_each_example(self, case: ObjectiveCase) -> None:
        for dtype in (torch.float32, torch.float64):
            loss = _loss(case, *_as(dtype, case.student, case.teacher))
            assert loss.shape == (len(case),)
            assert loss.dtype == dtype
            assert bool(torch.isfinite(loss).all())

    def test_nothing_is_lost_at_equality_and_never_less(self, case: ObjectiveCase) -> None:
        if case.floor is None:
            pytest.skip("declared to have no known floor")
        floor = torch.as_tensor(case.floor, dtype=torch.float64)
        equal = _loss(case, *_as(torch.float64, *case.at_equality()))
        assert torch.allclose(equal, floor.expand_as(equal), rtol=1e-6, atol=1e-6), f"{equal} at equality, not {floor}"
        loss = _loss(case, *_as(torch.float64, case.student, case.teacher))
        assert bool((loss >= torch.as_tensor(floor).min() - 1e-9).all()), f"{loss} is below the floor {floor}"

    def test_examples_may_come_in_any_order(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        order = torch.arange(len(case)).roll(1)
        moved = _loss(case, *(map_values(lambda leaf: leaf[order], side) for side in (student, teacher)))
        assert torch.allclose(moved, _loss(case, student, teacher)[order], rtol=1e-9, atol=1e-12)

    def test_one_example_sees_another_only_if_relational(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        # Another first example, once the student's and once the teacher's: either may be all that is looked at.
        other = [map_values(lambda leaf: torch.cat([leaf[1:2], leaf[1:]]), side) for side in (student, teacher)]
        before = _loss(case, student, teacher)[1:]
        after = _loss(case, other[0], teacher)[1:], _loss(case, student, other[1])[1:]
        same = all(torch.allclose(before, each, rtol=1e-9, atol=1e-12) for each in after)
        relational = bool(getattr(case.objective, "relational", False))
        assert same != relational, "relational objectives see the batch, others must not: declare it"
        if not relational:
            alone = _loss(case, *(map_values(lambda leaf: leaf[:1], side) for side in (student, teacher)))
            assert torch.allclose(alone, _loss(case, student, teacher)[:1], rtol=1e-9, atol=1e-12)

    def test_gradients_are_right_on_both_sides(self, case: ObjectiveCase) -> None:
        if not self.differentiable:
            pytest.skip("declared to have no gradient")
        objective = _double(case.objective)
        # Detaching is the edge's business: an objective that does it cannot teach both ways.
        sides = _as(torch.float64, case.student, case.teacher)
        floats = [leaf.requires_grad_() for leaf in leaves(sides) if leaf.is_floating_point()]

        def loss(*given: Tensor, of: Callable[[Any, Any], Tensor]) -> Tensor:
            fresh = iter(given)
            return of(*map_values(lambda leaf: next(fresh) if leaf.is_floating_point() else leaf, sides))

        if case.held is not None:
            constant = case.held(*_as(torch.float64, case.student, case.teacher))
            here, there = loss(*floats, of=objective), loss(*floats, of=constant)
            assert torch.allclose(here, there), f"{here} is not the loss with a part held, {there}"
            ours, theirs = (torch.autograd.grad(one.sum(), floats, materialize_grads=True) for one in (here, there))
            assert all(torch.allclose(*pair) for pair in zip(ours, theirs, strict=True)), "more is held, or less"
            objective = constant
        assert torch.autograd.gradcheck(functools.partial(loss, of=objective), floats, eps=1e-6, atol=1e-5)

    def test_taps_are_not_written_to(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        before = [leaf.clone() for leaf in leaves((student, teacher))]
        _loss(case, student, teacher)
        assert all(torch.equal(*pair) for pair in zip(leaves((student, teacher)), before, strict=True))

    def test_what_must_not_matter_does_not(self, case: ObjectiveCase) -> None:
        student, teacher = _as(torch.float64, case.student, case.teacher)
        loss = _loss(case, student, teacher)
        for change in self.invariances:
            changed = _loss(case, *change(student, teacher))
            assert torch.allclose(changed, loss, rtol=1e-6, atol=1e-9), getattr(change, "__name__", change)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
    def test_half_precision_stays_finite(self, case: ObjectiveCase, dtype: torch.dtype) -> None:
        student = map_values(lambda leaf: _large(leaf, self.largest, dtype).requires_grad_(), case.student)
        teacher = map_values(
            lambda leaf: _large(leaf, -self.largest, dtype) if leaf.is_floating_point() else leaf, case.teacher
        )
        self._finite(case, student, teacher, dtype)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
    def test_equal_taps_stay_finite(self, case: ObjectiveCase, dtype: torch.dtype) -> None:
        student, teacher = _as(dtype, *case.at_equality())
        self._finite(case, map_values(lambda leaf: leaf.requires_grad_(), student), teacher, dtype)

    def _finite(self, case: ObjectiveCase, student: Any, teacher: Any, dtype: torch.dtype) -> None:
        loss = _loss(case, student, teacher, grad=self.differentiable)
        assert loss.dtype == dtype
        assert bool(torch.isfinite(loss).all()), loss
        if self.differentiable:
            gradients = torch.autograd.grad(loss.float().sum(), list(leaves(student)), allow_unused=True)
            assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients if gradient is not None)

    def test_it_survives_copying_and_files(self, case: ObjectiveCase) -> None:
        objective = case.objective
        copies: list[Any] = [pickle.loads(pickle.dumps(objective)), copy.deepcopy(objective)]  # noqa: S301
        told = objective if case.made_by is None else case.made_by
        if not isinstance(told, nn.Module):
            names = _classes(told)
            again = [eval(repr(told), dict(names)), decode(encode(told), names), copy.deepcopy(told)]
            assert all(other == told for other in again)
            if case.made_by is None:
                assert all(other == told for other in copies)
                copies += again
        loss = _loss(case, *_as(torch.float64, case.student, case.teacher))
        for other in copies:
            other_case = dataclasses.replace(case, objective=other)
            assert torch.equal(_loss(other_case, *_as(torch.float64, case.student, case.teacher)), loss)

    def test_shapes_that_do_not_fit_are_named(self) -> None:
        objective = next(iter(self.cases())).objective
        assert self.wrong, "list at least one pair of taps that do not fit"
        for student, teacher in self.wrong:
            with pytest.raises(ShapeError) as error:
                objective(student, teacher)
            for side in (student, teacher):
                shapes = [str(tuple(leaf.shape)) for leaf in leaves(side)]
                assert any(shape in str(error.value) for shape in shapes), f"{shapes} is not in: {error.value}"

    def test_nothing_jumps_at_the_ends_of_settings(self) -> None:
        case = next(iter(self.cases()))
        student, teacher = _as(torch.float64, case.student, case.teacher)
        for end in self.ends:
            at, near = end.make(end.end)(student, teacher), end.make(end.inside)(student, teacher)
            tolerance = 10 * abs(end.inside - end.end) * (1 + float(at.abs().max()))
            assert float((at - near).abs().max()) <= tolerance, f"{near} jumps to {at}"


def _loss(case: ObjectiveCase, student: Any, teacher: Any, *, grad: bool = False) -> Tensor:
    double = next(leaves(student)).dtype == torch.float64
    objective = _double(case.objective) if double else case.objective
    with torch.set_grad_enabled(grad):
        loss: Tensor = objective(student, teacher)
    return loss


def _double(objective: Objective) -> Any:
    return copy.deepcopy(objective).double() if isinstance(objective, nn.Module) else objective


def _as(dtype: torch.dtype, *sides: Any) -> tuple[Any, ...]:
    return tuple(
        map_values(lambda leaf: leaf.detach().to(dtype) if leaf.is_floating_point() else leaf, side) for side in sides
    )


def _large(leaf: Tensor, largest: float, dtype: torch.dtype) -> Tensor:
    """The leaf with its largest number scaled to this one; a distribution stays what it is."""
    scaled = leaf.detach() if _is_distribution(leaf) else leaf.detach() * (largest / float(leaf.abs().max()))
    return scaled.to(dtype)


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
