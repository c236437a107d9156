"""Relations between examples: the laws, the formulas as slow loops with a mistake that each finds, the identities."""

import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from lessen.core.errors import SettingError, ShapeError
from lessen.functional import pairs
from lessen.knowledge import (
    AbsoluteDistance,
    CorrelationCongruence,
    GeometricGraph,
    HuberDistance,
    InstanceRelationshipGraph,
    JensenShannon,
    ProbabilisticTransfer,
    RelationalAngle,
    RelationalDistance,
    SimilarityPreserving,
)
from lessen.knowledge.examples.correlation_congruence import gaussian_kernel
from lessen.knowledge.examples.relational_angle import angle_cosines
from lessen.testing import ObjectiveCase, ObjectiveLaws
from lessen.testing.largest import LargestTensor
from lessen.testing.objectives import Pair

PLAIN: list[Any] = [
    RelationalDistance(),
    RelationalAngle(),
    SimilarityPreserving(),
    CorrelationCongruence(),
    ProbabilisticTransfer(),
    ProbabilisticTransfer(with_itself=False),
    GeometricGraph(),
    GeometricGraph(power=3),
]
WRONG = (
    (torch.zeros(3, 10), torch.zeros(4, 10)),
    (torch.zeros(3), torch.zeros(3)),
    (torch.zeros(3, 4), torch.zeros(3)),
    (torch.zeros(1, 4), torch.zeros(1, 4)),
)


def rotation(size: int) -> Tensor:
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=torch.float64)
    return torch.linalg.qr(drawn).Q


def rotate(features: Tensor) -> Tensor:
    flat = features.flatten(1)
    return (flat @ rotation(flat.shape[1]).to(flat)).view_as(features)


def rotated(student: Tensor, teacher: Tensor) -> Pair:
    return rotate(student), rotate(teacher.flip(1))


def scaled(student: Tensor, teacher: Tensor) -> Pair:
    return 3 * student, teacher / 7


def moved(student: Tensor, teacher: Tensor) -> Pair:
    """A common offset of all examples."""
    return student + 2, teacher - torch.linspace(0, 1, teacher[0].numel()).to(teacher).view_as(teacher[0])


def each_scaled(student: Tensor, teacher: Tensor) -> Pair:
    """A length of its own for each example: cosines do not see it."""
    length = torch.linspace(0.5, 2, len(student)).to(student)
    return student * length.view(-1, *[1] * (student.ndim - 1)), teacher / length.view(-1, *[1] * (teacher.ndim - 1))


def cases_of(*objectives: Any) -> Iterable[ObjectiveCase]:
    """Each with vectors of two widths, and the first with maps too."""
    for objective in objectives:
        yield ObjectiveCase(objective=objective, student=torch.randn(5, 6), teacher=torch.randn(5, 4))
    yield ObjectiveCase(objective=objectives[0], student=torch.randn(4, 3, 2, 2), teacher=torch.randn(4, 2, 1, 3))


class TestRelationalDistance(ObjectiveLaws):
    invariances = (rotated, scaled, moved)
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        return cases_of(RelationalDistance(), RelationalDistance(distance=HuberDistance(threshold=0.1)))


class TestRelationalAngle(ObjectiveLaws):
    invariances = (rotated, scaled, moved)
    wrong = (*WRONG, (torch.zeros(2, 4), torch.zeros(2, 4)))

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        return cases_of(RelationalAngle(), RelationalAngle(distance=AbsoluteDistance()))


class TestSimilarityPreserving(ObjectiveLaws):
    invariances = (rotated, scaled)
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        return cases_of(SimilarityPreserving(), SimilarityPreserving(distance=AbsoluteDistance()))


class TestCorrelationCongruence(ObjectiveLaws):
    invariances = (rotated, scaled, each_scaled)
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        return cases_of(CorrelationCongruence(), CorrelationCongruence(sharpness=2.0, order=5))


class TestProbabilisticTransfer(ObjectiveLaws):
    invariances = (rotated, scaled, each_scaled)
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        return cases_of(
            ProbabilisticTransfer(),
            ProbabilisticTransfer(with_itself=False),
            ProbabilisticTransfer(divergence=JensenShannon()),
        )


class TestGeometricGraph(ObjectiveLaws):
    invariances = (rotated, scaled, each_scaled)
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        return cases_of(GeometricGraph(), GeometricGraph(power=3), GeometricGraph(distance=AbsoluteDistance()))


def layers(count: int, *sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(count, *size) for size in sizes)


class TestInstanceRelationshipGraph(ObjectiveLaws):
    largest = 10.0  # it is a fourth power of the features: beyond 16, float16 cannot hold it
    wrong: ClassVar = (
        (layers(4, (3,), (3,)), layers(4, (3,), (3,), (3,))),
        (layers(4, (5,), (5,), (3,)), layers(4, (6,), (6,), (2,))),  # last taps differ
        (layers(4, (5,), (6,), (3,)), layers(4, (5,), (5,), (3,))),  # no layer keeps its size
        (layers(4, (5,), (5,)), layers(3, (5,), (5,))),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        shapes = [(2, 2, 2), (2, 2, 2), (3,)], [(6,), (6,), (3,)]
        yield ObjectiveCase(
            objective=InstanceRelationshipGraph(), student=layers(4, *shapes[0]), teacher=layers(4, *shapes[1])
        )
        alone = InstanceRelationshipGraph(vertices=False, transformation=False)
        yield ObjectiveCase(objective=alone, student=torch.randn(4, 3, 2), teacher=torch.randn(4, 5))
        absolute = InstanceRelationshipGraph(distance=AbsoluteDistance(), vertices=False)
        yield ObjectiveCase(objective=absolute, student=layers(4, (4,), (4,)), teacher=layers(4, (5,), (5,)))


# The formulas


def examples(count: int, width: int, seed: int) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


STUDENT, TEACHER = examples(6, 4, 1), examples(6, 5, 2)
ALL = range(6)


def smooth(difference: float) -> float:
    return difference**2 / 2 if abs(difference) < 1 else abs(difference) - 0.5


def dot(x: list[float], y: list[float]) -> float:
    return sum(a * b for a, b in zip(x, y, strict=True))


def cosine(x: list[float], y: list[float]) -> float:
    return dot(x, y) / math.sqrt(dot(x, x) * dot(y, y))


def by_loops(objective: Any, slow: Callable[[list[list[float]], list[list[float]]], list[float]]) -> bool:
    """Whether an objective gives what slow loops over lists of numbers give, for each example."""
    expected = torch.tensor(slow(STUDENT.tolist(), TEACHER.tolist()), dtype=torch.float64)
    return torch.allclose(objective(STUDENT, TEACHER), expected, rtol=1e-9)


def test_relational_distance_is_a_double_loop() -> None:
    def slow(student: Any, teacher: Any, *, own: bool = False) -> list[float]:
        def relative(side: Any) -> list[list[float]]:
            far = [[math.dist(x, y) for y in side] for x in side]
            positive = [d for row in far for d in row if d > 0 or own]
            unit = sum(positive) / len(positive)
            return [[d / unit for d in row] for row in far]

        s, t = relative(student), relative(teacher)
        return [sum(smooth(s[i][j] - t[i][j]) for j in ALL) / 6 for i in ALL]

    assert by_loops(RelationalDistance(), slow)
    assert not by_loops(RelationalDistance(), lambda s, t: slow(s, t, own=True))  # the diagonal in the unit
    assert not by_loops(RelationalDistance(distance=AbsoluteDistance()), slow)


def test_relational_angle_is_a_triple_loop() -> None:
    def slow(student: Any, teacher: Any, *, vertex: int = 0) -> list[float]:
        def angle(side: Any, i: int, j: int, k: int) -> float:
            to_j = [a - b for a, b in zip(side[j], side[i], strict=True)]
            to_k = [a - b for a, b in zip(side[k], side[i], strict=True)]
            return cosine(to_j, to_k) if i not in (j, k) else 0.0

        loss = [0.0] * 6
        for triple in itertools.product(ALL, repeat=3):
            loss[triple[vertex]] += smooth(angle(student, *triple) - angle(teacher, *triple)) / 36
        return loss

    assert by_loops(RelationalAngle(), slow)
    assert not by_loops(RelationalAngle(), lambda s, t: slow(s, t, vertex=1))  # counted where the triple ends


def test_similarity_preserving_is_a_double_loop() -> None:
    def slow(student: Any, teacher: Any, *, by_row: bool = True) -> list[float]:
        def alike(side: Any) -> Any:
            matrix = np.array([[dot(x, y) for y in side] for x in side])
            return matrix / (np.linalg.norm(matrix, axis=1, keepdims=True) if by_row else np.linalg.norm(matrix))

        return list(((alike(student) - alike(teacher)) ** 2).sum(1) / 6)

    assert by_loops(SimilarityPreserving(), slow)
    assert not by_loops(SimilarityPreserving(), lambda s, t: slow(s, t, by_row=False))


def test_correlation_congruence_is_the_papers_series() -> None:
    def slow(student: Any, teacher: Any, *, gamma: float = 0.4, shrink: float = math.exp(-0.8)) -> list[float]:
        def kernel(x: Any, y: Any) -> float:
            return shrink * sum((2 * gamma * cosine(x, y)) ** p / math.factorial(p) for p in range(3))

        pairs_of = [[(kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for j in ALL] for i in ALL]
        return [sum(row) / 6 for row in pairs_of]

    assert by_loops(CorrelationCongruence(), slow)
    assert not by_loops(CorrelationCongruence(), lambda s, t: slow(s, t, shrink=1.0))
    assert not by_loops(CorrelationCongruence(), lambda s, t: slow(s, t, gamma=0.2))


def test_the_series_goes_to_the_gaussian_kernel() -> None:
    unit = torch.nn.functional.normalize(STUDENT)
    exact = (-0.7 * torch.cdist(unit, unit).square()).exp()
    errors = [float((gaussian_kernel(STUDENT, sharpness=0.7, order=p) - exact).abs().max()) for p in (1, 2, 4, 40)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > 1e-4  # a short series is not the kernel
    assert errors[3] < 1e-12


def test_correlation_congruence_is_not_what_neighbours_in_the_batch_give() -> None:
    """The code in wide use depends on the order of the batch; this does not."""

    def neighbours(student: Tensor, teacher: Tensor) -> Tensor:
        apart = (student - teacher).abs()
        return (apart[:-1] * apart[1:]).sum(1).mean()

    student, teacher, order = STUDENT, TEACHER[:, :4], torch.tensor([3, 0, 5, 1, 4, 2])
    objective = CorrelationCongruence()
    assert torch.allclose(objective(student, teacher).mean(), objective(student[order], teacher[order]).mean())
    assert not torch.allclose(neighbours(student, teacher), neighbours(student[order], teacher[order]))


@pytest.mark.parametrize("with_itself", [True, False])
def test_probabilistic_transfer_is_a_double_loop(with_itself: bool) -> None:
    def slow(student: Any, teacher: Any, *, itself: bool = with_itself, reverse: bool = False) -> list[float]:
        def probability(side: Any, i: int, j: int) -> float:
            total = sum((1 + cosine(side[i], side[k])) / 2 for k in ALL if itself or k != i)
            return (1 + cosine(side[i], side[j])) / 2 / total

        if reverse:
            student, teacher = teacher, student
        loss = [0.0] * 6
        for i, j in itertools.product(ALL, repeat=2):
            if itself or i != j:
                t = probability(teacher, i, j)
                loss[i] += t * math.log(t / probability(student, i, j))
        return loss

    objective = ProbabilisticTransfer(with_itself=with_itself)
    assert by_loops(objective, slow)
    assert not by_loops(objective, lambda s, t: slow(s, t, itself=not with_itself))
    assert not by_loops(objective, lambda s, t: slow(s, t, reverse=True))
    assert not by_loops(objective, lambda s, t: [loss / 6 for loss in slow(s, t)])  # the mean over N^2


@pytest.mark.parametrize("power", [1, 2, 3])
def test_geometric_graph_counts_walks(power: int) -> None:
    def slow(student: Any, teacher: Any, *, steps: int = power, diagonal: float = 0.0) -> list[float]:
        def walks(side: Any) -> list[list[float]]:
            weight = [[cosine(side[i], side[j]) if i != j else diagonal for j in ALL] for i in ALL]
            degree = [sum(map(abs, row)) for row in weight]
            edge = [[weight[i][j] / math.sqrt(degree[i] * degree[j]) for j in ALL] for i in ALL]
            table = [[0.0] * 6 for _ in ALL]
            for walk in itertools.product(ALL, repeat=steps + 1):
                table[walk[0]][walk[-1]] += math.prod(edge[a][b] for a, b in itertools.pairwise(walk))
            return table

        s, t = walks(student), walks(teacher)
        return [sum((s[i][j] - t[i][j]) ** 2 for j in ALL) / 6 for i in ALL]

    assert by_loops(GeometricGraph(power=power), slow)
    assert not by_loops(GeometricGraph(power=power), lambda s, t: slow(s, t, diagonal=1.0))
    # The power that is ignored, as released code does.
    assert by_loops(GeometricGraph(power=power), lambda s, t: slow(s, t, steps=1)) == (power == 1)


def test_instance_relationship_graph_is_the_sum_of_its_parts() -> None:
    students, teachers = (
        tuple(examples(6, width, seed + place) for place, width in enumerate(widths))
        for seed, widths in ((10, (4, 4, 3)), (20, (5, 5, 3)))
    )

    def gap(x: list[float], y: list[float]) -> float:
        return sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / len(x)

    def table(side: Tensor) -> list[list[float]]:
        return [[gap(x, y) for y in side.tolist()] for x in side.tolist()]

    vertices = [gap(*pair) for pair in zip(students[2].tolist(), teachers[2].tolist(), strict=True)]
    edges = [0.0] * 6
    for student, teacher in zip(students, teachers, strict=True):
        s, t = table(student), table(teacher)
        edges = [edges[i] + sum((s[i][j] - t[i][j]) ** 2 for j in ALL) / 6 for i in ALL]
    steps = [
        [gap(*pair) for pair in zip(side[0].tolist(), side[1].tolist(), strict=True)] for side in (students, teachers)
    ]
    ways = [(a - b) ** 2 for a, b in zip(*steps, strict=True)]
    parts = {"vertices": vertices, "edges": edges, "transformation": ways}
    off = dict.fromkeys(parts, False)
    for name, expected in parts.items():
        got = InstanceRelationshipGraph(**off | {name: True})(students, teachers)
        assert torch.allclose(got, torch.tensor(expected, dtype=torch.float64)), name
        assert not torch.allclose(got, 2 * torch.tensor(expected, dtype=torch.float64)), name
    total = torch.tensor([sum(each) for each in zip(*parts.values(), strict=True)], dtype=torch.float64)
    assert torch.allclose(InstanceRelationshipGraph()(students, teachers), total)
    with pytest.raises(SettingError, match="set one of them"):
        InstanceRelationshipGraph(**off)


# The identities


@pytest.mark.parametrize("objective", PLAIN, ids=str)
def test_it_is_zero_at_equality_and_after_what_it_does_not_see(objective: Any) -> None:
    turned = STUDENT @ rotation(4)
    wider = torch.cat([turned, torch.zeros(6, 3, dtype=torch.float64)], dim=1)  # an isometry into more dimensions
    for teacher in (STUDENT, turned, 5 * turned, wider):
        assert torch.allclose(objective(STUDENT, teacher), torch.zeros(6, dtype=torch.float64), atol=1e-12)
    stretched = STUDENT * torch.tensor([1.0, 1.0, 3.0, 1.0])
    assert float(objective(STUDENT, stretched).max()) > 1e-4
    shift = torch.full((1, 4), 0.7, dtype=torch.float64)
    sees_the_origin = not isinstance(objective, RelationalDistance | RelationalAngle)
    assert (float(objective(STUDENT, 5 * turned + shift).max()) > 1e-4) == sees_the_origin


# Numbers


@pytest.mark.parametrize("objective", PLAIN, ids=str)
def test_examples_that_coincide_or_are_zero_have_finite_gradients(objective: Any) -> None:
    same = torch.ones(5, 4)
    pair = torch.randn(5, 4)
    pair[1] = pair[0]
    zero = torch.randn(5, 4)
    zero[2] = 0
    for student in (same, pair, zero, torch.zeros(5, 4), torch.randn(5, 1)):
        leaf = student.clone().requires_grad_()
        loss = objective(leaf, torch.randn(5, 4))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        assert bool(torch.isfinite(loss).all())
        assert bool(torch.isfinite(gradient).all())
        assert float(gradient.abs().max()) < 1e4  # not the slope of a root at rounding
    # What the plain formula does there:
    leaf = pair.clone().requires_grad_()
    plain = (leaf[:, None] - leaf).square().sum(2).sqrt().sum()
    assert bool(torch.isnan(torch.autograd.grad(plain, leaf)[0]).any())


@pytest.mark.parametrize("objective", PLAIN, ids=str)
def test_autocast_does_not_reach_inside(objective: Any) -> None:
    student, teacher = STUDENT.float(), TEACHER.float()
    expected = objective(student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(objective(student, teacher), expected)
        assert not torch.equal((student @ student.T).float(), pairs.gram(student))  # what it does to a plain product


@pytest.mark.parametrize("objective", [RelationalDistance(), RelationalAngle()], ids=str)
def test_far_from_the_origin_few_digits_are_lost(objective: Any) -> None:
    student, teacher = STUDENT.float() + 1000, TEACHER.float()
    expected = objective(student.double(), teacher.double()).float()
    assert torch.allclose(objective(student, teacher), expected, rtol=1e-3)
    # Inner products seen from the origin lose them.
    uncentred = pairs.squared_distances(pairs.gram(student))
    assert not torch.allclose(uncentred, torch.cdist(student.double(), student.double()).square().float(), rtol=0.1)


@pytest.mark.parametrize("objective", PLAIN, ids=str)
def test_no_tensor_of_pairs_times_features_is_made(objective: Any) -> None:
    count, width = 16, 2048
    student, teacher = torch.randn(count, width, requires_grad=True), torch.randn(count, width)
    with LargestTensor() as largest:
        objective(student, teacher).sum().backward()
    assert largest.numbers <= count * width
    with LargestTensor() as slow:
        difference = torch.nn.functional.normalize(teacher[None] - teacher[:, None], dim=2)
        angles = difference @ difference.transpose(1, 2)
    assert slow.numbers == count * count * width
    assert torch.allclose(angles, angle_cosines(teacher), atol=1e-4)


def test_several_taps_must_be_told_apart() -> None:
    taps = (torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="as many taps"):
        InstanceRelationshipGraph()(taps, taps[:1])
    with pytest.raises(ShapeError, match="transformation=False"):
        InstanceRelationshipGraph()(taps[0], taps[0])
