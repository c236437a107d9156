"""Divergences, transforms and temperatures, and the objectives on logits that are made of them: laws, then oracles."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core import ObjectiveInput, TaskFacts, decode, encode
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.functional import forward_kl, pearson
from lessen.knowledge import (
    AnnealedTemperature,
    ClassesInGroups,
    ClassesOnALine,
    CorrelationMatching,
    CostMatrix,
    CurriculumTemperature,
    Decoupled,
    ForwardKL,
    Hellinger,
    JensenShannon,
    LogitMatching,
    MultiLevel,
    Normalized,
    ProbabilityCorrelation,
    ProbabilityCosine,
    RefinedLogits,
    Renyi,
    ReverseKL,
    SkewedForwardKL,
    SkewedReverseKL,
    SoftTargets,
    StandardizeLogits,
    SwapLabel,
    TeacherPower,
    TopClasses,
    TotalVariation,
    Transformed,
    TransformedTeacher,
    Wasserstein,
    WeightedSoftLabels,
    WithoutLabel,
    ZipfLabels,
)
from lessen.knowledge.axes.transforms import standardize
from lessen.knowledge.labels.zipf_labels import zipf, zipf_labels
from lessen.knowledge.logits.decoupled import decoupled
from lessen.testing import End, ObjectiveCase, ObjectiveLaws, learned

PLACES = torch.tensor([0.0, 1.0, 1.5, 4.0, 5.0])
COSTS = tuple(tuple(row) for row in (PLACES[:, None] - PLACES).abs().tolist())
DIVERGENCES = [
    Renyi(order=0.5),
    Renyi(order=2.0),
    Renyi(order=0.3, normalize=True),
    Hellinger(),
    Wasserstein(cost=ClassesOnALine()),
    Wasserstein(cost=ClassesInGroups(groups=(0, 1, 0, 2, 1), near=0.3)),
    Wasserstein(cost=CostMatrix(rows=COSTS)),
    ProbabilityCosine(),
    ProbabilityCorrelation(),
    SkewedForwardKL(),
    SkewedReverseKL(),
    TopClasses(count=2),
    TopClasses(count=3, rest=False, divergence=JensenShannon()),
]
WRONG = ((torch.zeros(3, 10), torch.zeros(3, 9)), (torch.zeros(3), torch.zeros(3)))
LABELS = torch.tensor([2, 0, 4, 1])
WRONG_LABELS = (
    (torch.zeros(3, 5), (torch.zeros(3, 4), torch.zeros(3, dtype=torch.long))),
    (torch.zeros(3, 5), (torch.zeros(3, 5), torch.zeros(4, dtype=torch.long))),
    (torch.zeros(3, 5), (torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.long))),
    (torch.zeros(3, 1), (torch.zeros(3, 1), torch.zeros(3, dtype=torch.long))),
)


def logits(*shape: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    return spread * torch.randn(shape), spread * torch.randn(shape)


def fixed(*shape: int, spread: float = 3.0) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    both = spread * torch.randn(2, *shape, dtype=torch.float64)
    return both[0], both[1]


def case(objective: Any, student: Any, teacher: Any, **more: Any) -> ObjectiveCase:
    return ObjectiveCase(objective=objective, student=student, teacher=teacher, **more)


def offset(student: Tensor, teacher: Any) -> tuple[Tensor, Any]:
    """A softmax does not see a common offset of the logits of an example."""
    shift = torch.arange(len(student)).to(student).view(-1, *[1] * (student.ndim - 1))
    if isinstance(teacher, tuple):
        return student + shift, (teacher[0] - 3 * shift, *teacher[1:])
    return student + shift, teacher - 3 * shift


def scaled(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    factor = torch.arange(1, len(student) + 1).to(student).view(-1, *[1] * (student.ndim - 1))
    return student * factor, teacher / factor


class TestSoftTargetsWithEachDivergence(ObjectiveLaws):
    wrong = WRONG
    invariances = (offset,)
    ends = (
        End(make=lambda order: SoftTargets(divergence=Renyi(order=order, normalize=True)), end=0.0, inside=1e-5),
        End(make=lambda order: SoftTargets(divergence=Renyi(order=order)), end=1.0, inside=1 + 1e-5),
        End(make=lambda share: SoftTargets(divergence=SkewedForwardKL(share=share)), end=0.0, inside=1e-5),
        End(make=lambda share: SoftTargets(divergence=SkewedReverseKL(share=share)), end=0.0, inside=1e-5),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for divergence in DIVERGENCES:
            yield case(SoftTargets(temperature=2.0, divergence=divergence), *logits(4, 5))
        for divergence in (DIVERGENCES[1], DIVERGENCES[6], DIVERGENCES[11]):
            yield case(SoftTargets(temperature=2.0, divergence=divergence), *logits(3, 5, 2))


class TestSoftTargetsWithTransforms(ObjectiveLaws):
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield case(SoftTargets(temperature=AnnealedTemperature()), *logits(4, 5))
        yield case(SoftTargets(temperature=2.0, transform=StandardizeLogits()), *logits(4, 5, 2))
        student, teacher = logits(4, 5)
        power = SoftTargets(temperature=1.0, transform=TeacherPower(power=0.3))
        yield case(power, student, teacher, equal=(0.3 * teacher, teacher))
        yield case(SoftTargets(transform=WithoutLabel()), student, (teacher, LABELS))
        swapped = torch.stack([row[_swap(row, int(label))] for row, label in zip(teacher, LABELS, strict=True)])
        yield case(SoftTargets(transform=SwapLabel()), student, (teacher, LABELS), equal=(swapped, (teacher, LABELS)))


def _swap(row: Tensor, label: int) -> Tensor:
    order, most = torch.arange(len(row)), int(row.argmax())
    order[[label, most]] = order[[most, label]]
    return order


class TestTransformed(ObjectiveLaws):
    """Standardised logits, whatever compares them, do not see a positive scale and an offset (identity 5)."""

    wrong = WRONG
    invariances = (scaled,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (
            Transformed(),
            Transformed(objective=LogitMatching()),
            Transformed(objective=MultiLevel(temperatures=(2.0,))),
        ):
            yield case(objective, *logits(4, 5))

    def test_what_must_not_matter_does_not(self, case: ObjectiveCase) -> None:
        super().test_what_must_not_matter_does_not(case)
        student, teacher = case.student.double(), case.teacher.double()
        moved = case.objective(*offset(*scaled(student, teacher)))
        assert torch.allclose(moved, case.objective(student, teacher), rtol=1e-6)


class TestTransformedWithLabels(ObjectiveLaws):
    wrong = WRONG_LABELS[:3]

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = logits(4, 5)
        yield case(Transformed(objective=Decoupled(temperature=2.0)), student, (teacher, LABELS))
        yield case(Transformed(transform=WithoutLabel()), student, (teacher, LABELS))


class TestCurriculumTemperature(ObjectiveLaws):
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield learned(CurriculumTemperature(), *logits(4, 5))
        yield learned(CurriculumTemperature(span=3.0), *logits(4, 5, 2))
        student, teacher = logits(4, 5)
        yield learned(CurriculumTemperature(objective=Decoupled(temperature=1.0)), student, (teacher, LABELS))


class TestDecoupled(ObjectiveLaws):
    wrong = WRONG_LABELS
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = logits(4, 5)
        yield case(Decoupled(), student, (teacher, LABELS))
        yield case(Decoupled(temperature=1.0, others=0.0, divergence=ReverseKL()), student, (teacher, LABELS))
        student, teacher = logits(4, 5, 2)
        yield case(Decoupled(divergence=Hellinger()), student, (teacher, torch.stack([LABELS, LABELS.flip(0)], 1)))
        student, teacher = logits(4, 2)
        yield case(Decoupled(temperature=1.0), student, (teacher, LABELS % 2))


class TestNormalized(ObjectiveLaws):
    wrong = WRONG_LABELS
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (Normalized(), Normalized(temperature=2.0, others=0.5, divergence=TotalVariation())):
            student, teacher = logits(4, 5)
            # The student is sure of the label, and has the teacher's view of the others.
            sure = teacher.double() + 100 * F.one_hot(LABELS, 5)
            yield case(objective, student, (teacher, LABELS), equal=(sure, (teacher, LABELS)))


class TestWeightedSoftLabels(ObjectiveLaws):
    wrong = WRONG_LABELS
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (WeightedSoftLabels(), WeightedSoftLabels(temperature=1.0, divergence=JensenShannon())):
            student, teacher = logits(4, 5)
            yield case(objective, student, (teacher, LABELS), held=cls.held(objective))

    @staticmethod
    def held(objective: WeightedSoftLabels) -> Any:
        soft = SoftTargets(temperature=objective.temperature, divergence=objective.divergence)

        def at(student: Tensor, teacher: Any) -> Any:
            entropies = [F.cross_entropy(z, teacher[1], reduction="none") for z in (student, teacher[0])]
            weight = 1 - (-entropies[0] / (entropies[1] + 1e-7)).exp()
            return lambda s, t: weight * soft(s, t[0])

        return at


class TestCorrelationMatching(ObjectiveLaws):
    wrong = WRONG
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield case(CorrelationMatching(), *logits(6, 5))
        yield case(CorrelationMatching(temperature=4.0, columns=0.5, scale_by_temperature=True), *logits(6, 5))
        yield case(CorrelationMatching(), *logits(4, 3, 2))


class TestTransformedTeacher(ObjectiveLaws):
    wrong = WRONG
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (TransformedTeacher(), TransformedTeacher(power=0.5, divergence=ReverseKL(), weighted=True)):
            student, teacher = logits(4, 5)
            yield case(objective, student, teacher, equal=(objective.power * teacher.double(), teacher))
        student, teacher = logits(4, 5, 2)
        objective = TransformedTeacher(weighted=True)
        yield case(objective, student, teacher, equal=(0.2 * teacher.double(), teacher))


class TestMultiLevel(ObjectiveLaws):
    wrong = (*WRONG, (torch.zeros(3, 4, 2), torch.zeros(3, 4, 2)))
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield case(MultiLevel(), *logits(3, 4))
        yield case(MultiLevel(temperatures=(1.0,), examples=0.0, classes=2.0), *logits(4, 5))
        yield case(MultiLevel(temperatures=(3.0, 1.0), examples=2.0, classes=0.0), *logits(4, 5))


class TestRefinedLogits(ObjectiveLaws):
    wrong = WRONG_LABELS
    invariances = (offset,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = logits(4, 5)
        right = teacher.argmax(1)
        yield case(RefinedLogits(), student, (teacher, right))
        # One label is last, so that nothing is below it.
        last = torch.cat([teacher.argmin(1)[:1], LABELS[1:]])
        yield case(RefinedLogits(temperature=1.0, others=2.0), student, (teacher, last), floor=None)


class TestZipfLabels(ObjectiveLaws):
    wrong = (
        ((torch.zeros(3, 4), torch.zeros(3, 5)), torch.zeros(4, dtype=torch.long)),
        ((torch.zeros(3, 4), torch.zeros(3, 5)), torch.zeros(3, 5, dtype=torch.long)),
        ((torch.zeros(3, 4), torch.zeros(3, 5, 2)), torch.zeros(3, dtype=torch.long)),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for features in (torch.randn(4, 6), torch.randn(4, 6, 2, 2), torch.randn(4, 3, 6)):
            student = features, 3 * torch.randn(4, 5)
            made = learned(ZipfLabels(others=0.5, weak=0.1), student, LABELS, floor=None, equal=(student, LABELS))
            head = made.objective.head  # type: ignore[attr-defined]
            yield ObjectiveCase(**{**vars(made), "held": cls.held(head, features.ndim)})

    @staticmethod
    def held(head: Any, axes: int) -> Any:
        """The loss written out, with the target of the label and the ranks as they were."""
        weight, bias = (tensor.detach().double() for tensor in (head.weight, head.bias))

        def weak_logits(features: Tensor) -> Tensor:
            mean = {2: lambda f: f, 3: lambda f: f.mean(1), 4: lambda f: f.flatten(2).mean(2)}[axes]
            result: Tensor = mean(features) @ weight.T + bias
            return result

        def at(student: Any, labels: Tensor) -> Any:
            square = student[1].softmax(1)[range(4), labels] ** 2
            target = square + 1 - square.mean()
            shares = torch.zeros(4, 5, dtype=torch.float64)
            for number, label in enumerate(labels.tolist()):
                others = [c for c in range(5) if c != label]
                score = sum(z[number][others].softmax(0) for z in (student[1], weak_logits(student[0])))
                for rank, place in enumerate(score.argsort(descending=True).tolist()):
                    shares[number, others[place]] = 1 / (rank + 1)
            shares = shares / shares.sum(1, keepdim=True)

            def loss(s: Any, _: Tensor) -> Tensor:
                of_label = -target * s[1].log_softmax(1)[range(4), labels]
                left = s[1].masked_fill(F.one_hot(labels, 5).bool(), -torch.inf)
                log = torch.where(shares > 0, left.log_softmax(1), 0.0)
                weak = F.cross_entropy(weak_logits(s[0]), labels, reduction="none", label_smoothing=0.1)
                return of_label - 0.5 * (shares * log).sum(1) + 0.1 * weak

            return loss

        return at


# Oracles


def rejects(check: Callable[[Callable[..., Any]], None], wrong: Callable[..., Any]) -> bool:
    """Whether a check that holds for the method fails on a version with a mistake."""
    try:
        check(wrong)
    except AssertionError:
        return True
    return False


def with_gradient(loss: Callable[[Tensor], Tensor], at: Tensor) -> tuple[Tensor, Tensor]:
    at = at.detach().requires_grad_()
    value = loss(at)
    (gradient,) = torch.autograd.grad(value.sum(), at)
    return value, gradient


def agree(first: Callable[[Tensor], Tensor], second: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """In value and gradient."""
    for ours, theirs in zip(with_gradient(first, at), with_gradient(second, at), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_decoupled_with_the_teachers_own_weight_is_soft_targets() -> None:
    """Identity 1: TCKD + (1 - p of the label) NCKD = T^2 KL."""
    student, teacher = fixed(4, 5)
    temperature = 4.0
    own = 1 - (teacher / temperature).softmax(1)[range(4), LABELS]

    def check(weight: Tensor, labels: Tensor = LABELS) -> None:
        def both(z: Tensor) -> Tensor:
            target, others = decoupled(z, teacher, labels, temperature=temperature, divergence=ForwardKL())
            return target + weight * others

        agree(both, lambda z: SoftTargets(temperature=temperature)(z, teacher), student)

    check(own)
    # Planted: the weight at temperature 1, the weight of the label, no weight, another label.
    for wrong in (1 - teacher.softmax(1)[range(4), LABELS], 1 - own, torch.ones(4)):
        assert rejects(check, wrong)  # type: ignore[arg-type]
    assert rejects(lambda labels: check(own, labels), LABELS.flip(0))  # type: ignore[arg-type]


def slow_decoupled(student: Tensor, teacher: Tensor, label: int, *, temperature: float, others: float) -> float:
    t, s = ([math.exp(float(z) / temperature) for z in row] for row in (teacher, student))
    t, s = ([p / sum(ps) for p in ps] for ps in (t, s))
    target = sum(a * math.log(a / b) for a, b in ((t[label], s[label]), (1 - t[label], 1 - s[label])))
    q = [[p / (1 - ps[label]) for c, p in enumerate(ps) if c != label] for ps in (t, s)]
    return temperature**2 * (target + others * sum(a * math.log(a / b) for a, b in zip(*q, strict=True)))


def test_decoupled_is_its_formula() -> None:
    student, teacher = fixed(4, 5)
    loss = Decoupled(temperature=3.0, others=8.0)(student, (teacher, LABELS))
    for number, label in enumerate(LABELS.tolist()):
        sides = student[number], teacher[number]
        assert float(loss[number]) == pytest.approx(slow_decoupled(*sides, label, temperature=3.0, others=8.0))
        # Planted: the label's part weighed too.
        wrong = slow_decoupled(*sides, label, temperature=3.0, others=1.0) * 8
        assert float(loss[number]) != pytest.approx(wrong, rel=1e-3)
    only_others = SoftTargets(temperature=3.0, transform=WithoutLabel())(student, (teacher, LABELS))
    label_only = Decoupled(temperature=3.0, others=0.0)(student, (teacher, LABELS))
    assert torch.allclose(label_only + 8 * only_others, loss)


def test_a_sure_teacher_in_half_precision_still_says_something_of_the_others() -> None:
    """At logits of 50 the probability of the others is 0 in 16 bits; their distribution is not."""
    student, teacher = (torch.tensor([[50.0, 2.0, 1.0, 0.0], [50.0, 2.0, 1.0, 0.0]]) for _ in range(2))
    student[:, 1:] = student[:, 1:].flip(1)
    labels = torch.tensor([0, 0])
    exact = Decoupled(temperature=1.0)(student.double(), (teacher.double(), labels))
    assert float(exact[0]) > 1
    for dtype in (torch.float16, torch.bfloat16):
        loss = Decoupled(temperature=1.0)(student.to(dtype), (teacher.to(dtype), labels))
        assert torch.allclose(loss.double(), exact, rtol=1e-2)
    # Planted: masked by -1000 in half precision, then the logarithm of a softmax, as in released code.
    masked = teacher.bfloat16() - 1000 * F.one_hot(labels, 4).bfloat16()
    assert not torch.allclose(
        masked.softmax(1).log()[:, 1:].double(), teacher[:, 1:].double().log_softmax(1), rtol=1e-3
    )


def test_normalized_is_its_formula() -> None:
    student, teacher = fixed(4, 5)
    loss = Normalized(temperature=2.0, others=1.5)(student, (teacher, LABELS))
    for number, label in enumerate(LABELS.tolist()):
        keep = [c for c in range(5) if c != label]
        s, t = student[number], teacher[number]
        target = -float(t.softmax(0)[label] * s.softmax(0)[label].log())
        q_s, q_t = ((z[keep] / 2).softmax(0) for z in (s, t))
        cross = float(-(q_t * q_s.log()).sum())
        entropy = float(-(q_t * q_t.log()).sum())
        assert float(loss[number]) == pytest.approx(target + 1.5 * 4 * (cross - entropy))
        # Planted: the label stays among the others, as where a mask does nothing.
        p_s, p_t = ((z / 2).softmax(0) for z in (s, t))
        wrong = target + 1.5 * 4 * float((p_t * (p_t / p_s).log()).sum())
        assert float(loss[number]) != pytest.approx(wrong, rel=1e-3)


def test_normalized_has_the_gradient_of_the_papers_cross_entropy() -> None:
    student, teacher = fixed(4, 5)
    keep = torch.stack([torch.tensor([c for c in range(5) if c != label]) for label in LABELS.tolist()])

    def paper(z: Tensor) -> Tensor:
        target = -(teacher.softmax(1) * z.log_softmax(1))[range(4), LABELS]
        q = teacher.gather(1, keep).softmax(1)
        return target - 1.5 * (q * z.gather(1, keep).log_softmax(1)).sum(1)

    ours, theirs = (with_gradient(one, student)[1] for one in (lambda z: Normalized()(z, (teacher, LABELS)), paper))
    assert torch.allclose(ours, theirs)
    assert not torch.allclose(with_gradient(lambda z: Normalized(others=1.0)(z, (teacher, LABELS)), student)[1], theirs)


def test_transformed_teacher_is_soft_targets_with_the_student_at_one() -> None:
    """Identity 3: the teacher's power, made to sum to one, is softmax(power z); TTM is KL with the student at T = 1."""
    student, teacher = fixed(4, 5)
    power = 0.25
    raised = teacher.softmax(1) ** power
    raised = raised / raised.sum(1, keepdim=True)
    assert torch.allclose(raised, (power * teacher).softmax(1))

    def slow(z: Tensor) -> Tensor:
        return (raised * (raised / z.softmax(1)).log()).sum(1)

    agree(lambda z: TransformedTeacher(power=power)(z, teacher), slow, student)
    transform = SoftTargets(temperature=1.0, transform=TeacherPower(power=power))
    agree(lambda z: transform(z, teacher), slow, student)
    weights = (teacher.softmax(1) ** power).sum(1)
    agree(lambda z: TransformedTeacher(power=power, weighted=True)(z, teacher), lambda z: weights * slow(z), student)
    # Planted: soft targets at both sides, T^2 on top, and the weight inverted.
    for wrong in (
        lambda z: SoftTargets(temperature=1 / power, scale_by_temperature=False)(z, teacher),
        lambda z: slow(z) / power**2,
        lambda z: slow(z) / weights,
    ):
        assert rejects(lambda w: agree(w, slow, student), wrong)


def test_a_power_of_probabilities_is_a_temperature() -> None:
    """Identity 4: softmax(z)^(1 / T), made to sum to one, is softmax(z / T)."""
    _, teacher = fixed(4, 5)
    for temperature in (0.5, 2.0, 7.0):
        raised = teacher.softmax(1) ** (1 / temperature)
        expected = raised / raised.sum(1, keepdim=True)
        _, got = TeacherPower(power=1 / temperature)(teacher, teacher)
        assert torch.allclose(got.softmax(1), expected)
        assert not torch.allclose(TeacherPower(power=temperature)(teacher, teacher)[1].softmax(1), expected, rtol=1e-2)


def test_at_a_high_temperature_decoupled_and_correlation_see_what_soft_targets_see() -> None:
    """Identity 2 through the new parts: with the teacher's own weight the limit is that of the logits' variance."""
    student, teacher = fixed(4, 5, spread=1.0)
    difference = student - teacher
    expected = (difference - difference.mean(1, keepdim=True)).square().sum(1) / (2 * 5)
    temperature = 1e3
    own = 1 - (teacher / temperature).softmax(1)[range(4), LABELS]
    target, others = decoupled(student, teacher, LABELS, temperature=temperature, divergence=ForwardKL())
    assert torch.allclose(target + own * others, expected, rtol=1e-2)
    assert not torch.allclose(target + others, expected, rtol=1e-2)
    # Probabilities are even plus a little of the logits there, and correlation does not see the even part.
    rows = ProbabilityCorrelation()(*((z / 1e5).log_softmax(1) for z in (student, teacher)))
    assert torch.allclose(rows, 1 - pearson(student, teacher, dim=1), rtol=1e-3)


def test_standardised_logits_are_z_scores() -> None:
    student, _ = fixed(4, 5)
    expected = (student - student.mean(1, keepdim=True)) / (student.std(1, keepdim=True) + 1e-7)
    assert torch.allclose(standardize(student), expected, rtol=1e-12)
    wrong = (student - student.mean(1, keepdim=True)) / (student.std(1, keepdim=True, correction=0) + 1e-7)
    assert not torch.allclose(wrong, expected, rtol=1e-2)
    even = torch.ones(2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(standardize(even).square().sum(), even)
    assert bool(torch.isfinite(gradient).all())
    with pytest.raises(ShapeError, match="three classes"):
        StandardizeLogits()(torch.zeros(3, 2), torch.zeros(3, 2))


def test_correlation_matching_is_numpys_correlation_of_rows_and_columns() -> None:
    student, teacher = fixed(6, 5)
    s, t = student.softmax(1), teacher.softmax(1)

    def correlations(first: Tensor, second: Tensor) -> Tensor:
        return torch.stack([torch.corrcoef(torch.stack(p))[0, 1] for p in zip(first, second, strict=True)])

    rows, columns = 1 - correlations(s, t), 1 - correlations(s.T, t.T)
    loss = CorrelationMatching(columns=0.7)(student, teacher)
    assert torch.allclose(loss, rows + 0.7 * columns.mean())
    # Planted: correlations added where 1 - correlation belongs, and the roles of the axes changed over.
    assert not torch.allclose(loss, (1 - rows) + 0.7 * (1 - columns.mean()), rtol=1e-2)
    assert not torch.allclose(loss.mean(), columns.mean() + 0.7 * rows.mean(), rtol=1e-3)
    soft = CorrelationMatching(temperature=4.0, columns=0.0)(student, teacher)
    scaled_up = CorrelationMatching(temperature=4.0, columns=0.0, scale_by_temperature=True)(student, teacher)
    assert torch.allclose(16 * soft, scaled_up)
    assert torch.allclose(soft, 1 - correlations((student / 4).softmax(1), (teacher / 4).softmax(1)))


def test_multi_level_is_its_sums() -> None:
    student, teacher = fixed(4, 5)
    total = torch.zeros((), dtype=torch.float64)
    for temperature in (2.0, 5.0):
        s, t = (student / temperature).softmax(1), (teacher / temperature).softmax(1)
        total += temperature**2 * (t * (t / s).log()).sum() / 4
        for i in range(4):
            for j in range(4):
                total += 2.0 * (s[i] @ s[j] - t[i] @ t[j]) ** 2 / 4
        for c in range(5):
            for d in range(5):
                total += 3.0 * (s[:, c] @ s[:, d] - t[:, c] @ t[:, d]) ** 2 / 5
    loss = MultiLevel(temperatures=(2.0, 5.0), examples=2.0, classes=3.0)(student, teacher)
    assert float(loss.mean()) == pytest.approx(float(total))
    assert float(loss.mean()) != pytest.approx(float(total) / 2, rel=1e-2)  # planted: a mean over temperatures
    swapped = MultiLevel(temperatures=(2.0, 5.0), examples=3.0, classes=2.0)(student, teacher)
    assert float(swapped.mean()) != pytest.approx(float(total), rel=1e-3)
    only = MultiLevel(temperatures=(3.0,), examples=0.0, classes=0.0)(student, teacher)
    assert torch.equal(only, SoftTargets(temperature=3.0)(student, teacher))


def test_weighted_soft_labels_are_its_formula() -> None:
    student, teacher = fixed(4, 5)
    loss = WeightedSoftLabels(temperature=2.0)(student, (teacher, LABELS))
    for number, label in enumerate(LABELS.tolist()):
        s, t = student[number], teacher[number]
        ratio = math.log(float(s.softmax(0)[label])) / math.log(float(t.softmax(0)[label]))
        p_s, p_t = (s / 2).softmax(0), (t / 2).softmax(0)
        soft = 4 * float((p_t * (p_t / p_s).log()).sum())
        assert float(loss[number]) == pytest.approx((1 - math.exp(-ratio)) * soft, rel=1e-5)
        # Planted: the ratio turned over, and measured at the temperature of the soft targets.
        assert float(loss[number]) != pytest.approx((1 - math.exp(-1 / ratio)) * soft, rel=1e-2)
        softened = math.log(float(p_s[label])) / math.log(float(p_t[label]))
        assert float(loss[number]) != pytest.approx((1 - math.exp(-softened)) * soft, rel=1e-3)


def slow_refined(student: Tensor, teacher: Tensor, label: int, *, temperature: float, others: float) -> float:
    s, t = student / temperature, teacher / temperature
    top, of_label = float(t.softmax(0).max()), float(s.softmax(0)[label])
    confident = sum(a * math.log(a / b) for a, b in ((top, of_label), (1 - top, 1 - of_label)))
    below = [c for c in range(len(t)) if t[c] < t[label]]
    rest = 0.0
    if below:
        p_s, p_t = s[below].softmax(0), t[below].softmax(0)
        rest = float((p_t * (p_t / p_s).log()).sum())
    return temperature**2 * (confident + others * rest)


def test_refined_logits_are_their_formula() -> None:
    student, teacher = fixed(6, 5)
    # The label is first, in the middle, and last in the teacher's order.
    order = teacher.argsort(1, descending=True)
    labels = order[range(6), [0, 1, 2, 3, 4, 0]]
    loss = RefinedLogits(temperature=2.0, others=3.0)(student, (teacher, labels))
    for number, label in enumerate(labels.tolist()):
        sides = student[number], teacher[number]
        assert float(loss[number]) == pytest.approx(slow_refined(*sides, label, temperature=2.0, others=3.0))
    # Where the teacher is right it is decoupled distillation; where it is wrong it is not.
    split = Decoupled(temperature=2.0, others=3.0)(student, (teacher, labels))
    assert torch.allclose(split[[0, 5]], loss[[0, 5]])
    assert not bool(torch.isclose(split[1:5], loss[1:5], rtol=1e-3).any())


def test_swapping_the_label_corrects_the_teacher_only_where_it_is_wrong() -> None:
    teacher = torch.tensor([[1.0, 5.0, 2.0], [1.0, 5.0, 2.0]])
    _, swapped = SwapLabel()(teacher, (teacher, torch.tensor([1, 2])))
    assert torch.equal(swapped, torch.tensor([[1.0, 5.0, 2.0], [1.0, 2.0, 5.0]]))


def test_zipf_labels_are_their_parts() -> None:
    """With the weak head left out and a batch of one, the label's target is 1."""
    torch.manual_seed(0)
    student, weak = torch.randn(2, 1, 5, dtype=torch.float64)
    label = torch.tensor([3])
    expected = F.cross_entropy(student, label)
    assert torch.allclose(zipf_labels(student, weak, label, others=0.0, weak=0.0), expected)
    with_others = zipf_labels(student, weak, label, others=1.0, weak=0.0) - expected
    keep = [0, 1, 2, 4]
    score = student[0, keep].softmax(0) + weak[0, keep].softmax(0)
    shares = torch.tensor([1 / (1 + int((score > one).sum())) for one in score], dtype=torch.float64)
    assert torch.allclose(with_others, -(shares / shares.sum() * student[0, keep].log_softmax(0)).sum())
    # Planted: ranked upside down, and by the student alone where that is another order.
    wrong = 1 / (1 + (score[:, None] > score).sum(1))
    assert not torch.allclose(with_others, -(wrong / wrong.sum() * student[0, keep].log_softmax(0)).sum())
    assert torch.allclose(zipf(score[None])[0], shares / shares.sum())


def test_zipf_labels_of_a_batch_are_written_out() -> None:
    torch.manual_seed(0)
    features, student = torch.randn(4, 6, dtype=torch.float64), fixed(4, 5)[0]
    made: Any = ZipfLabels(others=0.3, weak=0.2).objective_for(((4, 6), (4, 5)), (4,), TaskFacts(examples=4)).double()
    got = made((features, student), LABELS).tolist()

    def slow(*, centred: bool = True, smoothing: float = 0.1) -> list[float]:
        sure = [float(row.softmax(0)[label]) ** 2 for row, label in zip(student, LABELS.tolist(), strict=True)]
        losses = []
        for n, label in enumerate(LABELS.tolist()):
            target = sure[n] + (1 - sum(sure) / 4 if centred else 0)
            weak = made.head.weight @ features[n] + made.head.bias
            rest = [c for c in range(5) if c != label]
            score = (student[n, rest].softmax(0) + weak[rest].softmax(0)).tolist()
            shares = [1 / (1 + sum(other > one for other in score)) for one in score]
            others = -sum(
                s / sum(shares) * float(p) for s, p in zip(shares, student[n, rest].log_softmax(0), strict=True)
            )
            says = weak.log_softmax(0).detach()
            weak_loss = -(1 - smoothing) * float(says[label]) - smoothing * float(says.mean())
            losses.append(-target * float(student[n].log_softmax(0)[label]) + 0.3 * others + 0.2 * weak_loss)
        return losses

    assert got == pytest.approx(slow())
    assert got != pytest.approx(slow(centred=False), rel=1e-3)
    assert got != pytest.approx(slow(smoothing=0.0), rel=1e-3)


def test_curriculum_temperature_learns_against_the_student() -> None:
    student, teacher = fixed(4, 5)
    made: Any = CurriculumTemperature(over=0.5).objective_for((4, 5), (4, 5), TaskFacts(examples=4)).double()
    temperature = 1 + 20 / (1 + math.exp(-1))
    expected = SoftTargets(temperature=temperature)(student, teacher)
    assert torch.allclose(made(student, teacher), expected)
    assert not torch.allclose(made(student, teacher), expected / temperature**2)

    def at(number: float) -> float:
        with torch.no_grad():
            made.number.fill_(number)
            return float(made(student, teacher).mean())

    near = 1e-5
    slope = (at(1.0 + near) - at(1.0 - near)) / (2 * near)
    at(1.0)
    strengths = []
    for progress in (0.0, 0.25, 0.5, 1.0):
        (gradient,) = torch.autograd.grad(made.during(progress)(student, teacher).mean(), made.number)
        strengths.append(-float(gradient) / slope)
    assert strengths == pytest.approx([0.0, 0.5, 1.0, 1.0], abs=1e-6)
    # A step down the gradient makes the loss larger: harder for the student.
    before = at(1.0)
    assert at(1.0 - 0.1 * float(gradient)) > before
    assert at(1.0 + 0.1 * float(gradient)) < before  # planted: the gradient as it is, not reversed
    (own,) = torch.autograd.grad(made(student.requires_grad_(), teacher).sum(), student)
    plain = with_gradient(lambda z: SoftTargets(temperature=made.temperature().item())(z, teacher), student)[1]
    assert torch.allclose(own, plain)


def test_an_annealed_temperature_follows_the_stage() -> None:
    student, teacher = fixed(4, 5)
    annealed = AnnealedTemperature(start=8.0, end=2.0)
    for objective in (SoftTargets, WeightedSoftLabels, Decoupled, Normalized, RefinedLogits, CorrelationMatching):
        changing, sides = objective(temperature=annealed), (student, teacher)
        if getattr(changing, "needs", ()):
            sides = student, (teacher, LABELS)  # type: ignore[assignment]
        for progress, temperature in ((0.0, 8.0), (0.5, 5.0), (1.0, 2.0)):
            assert changing.during(progress) == objective(temperature=temperature)
            expected = objective(temperature=temperature)(*sides)
            assert torch.equal(changing.during(progress)(*sides), expected)
        assert torch.equal(changing(*sides), objective(temperature=8.0)(*sides))
        assert not torch.equal(changing.during(1.0)(*sides), changing(*sides))
        constant = objective(temperature=3.0)
        assert constant.during(0.5) is constant
    inside = Transformed(objective=SoftTargets(temperature=annealed))
    assert inside.during(1.0) == Transformed(objective=SoftTargets(temperature=2.0))
    learned_too: Any = CurriculumTemperature(objective=inside).objective_for((4, 5), (4, 5), TaskFacts(examples=4))
    assert learned_too.during(1.0).objective == inside.during(1.0)


def test_transformed_is_the_objective_on_what_was_transformed() -> None:
    student, teacher = fixed(4, 5)
    for objective in (SoftTargets(temperature=2.0), LogitMatching(), MultiLevel()):
        loss = Transformed(objective=objective)(student, teacher)
        scores = [(z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in (student, teacher)]
        assert torch.allclose(loss, objective(*scores))
        # Planted: one side, or none, is transformed.
        for sides in ((scores[0], teacher), (student, scores[1]), (student, teacher)):
            assert not torch.allclose(loss, objective(*sides), rtol=1e-2)


def test_what_a_transform_asks_for_is_asked_for_once() -> None:
    assert SoftTargets().needs == ()
    assert SoftTargets(transform=WithoutLabel()).needs == (ObjectiveInput.LABELS,)
    both = Transformed(transform=SwapLabel(), objective=Decoupled())
    assert both.needs == (ObjectiveInput.LABELS,)
    student, teacher = fixed(4, 5)
    _, swapped = SwapLabel()(student, (teacher, LABELS))
    assert torch.equal(both(student, (teacher, LABELS)), Decoupled()(student, (swapped, LABELS)))
    with pytest.raises(SettingError, match="removes the label's class"):
        Transformed(transform=WithoutLabel(), objective=Decoupled())


@pytest.mark.parametrize(
    "objective",
    [Decoupled(), Normalized(), WeightedSoftLabels(), RefinedLogits(), SoftTargets(transform=SwapLabel())],
    ids=lambda one: type(one).__name__,
)
def test_mixed_labels_are_an_error_with_advice(objective: Any) -> None:
    student, teacher = fixed(4, 5)
    with pytest.raises(DataError, match=r"mixed or soft labels.*SoftTargets"):
        objective(student, (teacher, F.one_hot(LABELS, 5).double()))


def test_settings_of_logits_are_checked_and_written_to_files() -> None:
    for make in (
        lambda: SoftTargets(temperature=AnnealedTemperature(start=0.0)),
        lambda: SoftTargets(temperature=-1.0),
        lambda: Decoupled(others=-1.0),
        lambda: MultiLevel(temperatures=()),
        lambda: TransformedTeacher(power=0.0),
        lambda: TopClasses(count=0),
        lambda: SkewedForwardKL(share=1.0),
    ):
        with pytest.raises(SettingError):
            make()
    given = Transformed(objective=Decoupled(temperature=AnnealedTemperature(), divergence=TopClasses(count=3)))
    known = {c.__name__: c for c in (Transformed, Decoupled, AnnealedTemperature, TopClasses, ForwardKL)}
    assert decode(encode(given), {**known, "StandardizeLogits": StandardizeLogits}) == given
    student, teacher = fixed(4, 5)
    assert torch.equal(
        SoftTargets()(student, teacher), 16 * forward_kl(*((z / 4).log_softmax(1) for z in (student, teacher)))
    )


@pytest.mark.parametrize(
    "objective",
    [
        MultiLevel(),
        CorrelationMatching(),
        SoftTargets(divergence=Wasserstein(cost=ClassesOnALine())),
        SoftTargets(divergence=Wasserstein(cost=CostMatrix(rows=COSTS))),
    ],
    ids=lambda one: type(one).__name__,
)
def test_autocast_leaves_sums_over_classes_and_pairs_their_digits(objective: Any) -> None:
    student, teacher = (tap.float() for tap in fixed(6, 5))
    expected = objective(student, student + 0.01 * teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(objective(student, student + 0.01 * teacher), expected, rtol=1e-5, atol=0)
        assert (student @ teacher.T).dtype == torch.bfloat16  # what it does to products otherwise
