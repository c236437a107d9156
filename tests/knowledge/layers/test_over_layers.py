"""Layers in pairs: which, how much each counts, and any objective over them."""

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor, nn

from lessen.core import ArrayExamples, Card, Data, ObjectiveInput, TaskFacts, settings
from lessen.core.errors import SettingError, ShapeError
from lessen.engine import Course
from lessen.graph import Fit
from lessen.knowledge import (
    AsNamed,
    AttentionOverLayers,
    AttentionTransfer,
    EarthMover,
    EvenlySpaced,
    FusionBridge,
    Hint,
    LastLayers,
    OverLayers,
    ResolutionBridge,
)
from lessen.knowledge.axes.pairings import Pairing, least_cost_plan
from lessen.schemes import Offline, at, taps
from lessen.surgery.values import shapes_of
from lessen.testing import ObjectiveCase, ObjectiveLaws, learned
from lessen.zoo import residual

PAIRINGS = [AsNamed(), EvenlySpaced(), LastLayers(count=2), EarthMover(), AttentionOverLayers(width=4)]


def layers(*shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    return tuple(torch.randn(shape) for shape in shapes)


def build(settings: OverLayers, student: Any, teacher: Any) -> nn.Module:
    torch.manual_seed(0)
    return settings.objective_for(shapes_of(student), shapes_of(teacher), TaskFacts(examples=20, classes=3)).eval()


def contested() -> tuple[Any, Any]:
    """Two layers on each side whose best plan hangs on every example, so that the plan is seen to look at the batch."""
    student, teacher = layers((4, 3), (4, 3)), layers((4, 3), (4, 3))
    # Example 0 wants the layers crossed so much that it decides for all; put something else there and it does not.
    far = 20 * torch.ones(3)
    student[0][0], student[1][0], teacher[0][0], teacher[1][0] = far, -far, -far, far
    student[0][1:], teacher[0][1:] = teacher[0][1:] + 0.1, teacher[0][1:]
    student[1][1:] = teacher[1][1:] - 0.1
    return student, teacher


class TestOverLayers(ObjectiveLaws):
    """All pairings that do not look at the batch."""

    @classmethod
    def cases(cls) -> Iterator[ObjectiveCase]:
        for pairing in (AsNamed(), EvenlySpaced(), LastLayers(count=2)):
            case = OverLayers(pairing=pairing)
            yield learned(case, layers((4, 3, 2, 2), (4, 5)), layers((4, 3, 2, 2), (4, 5)))
        yield learned(OverLayers(pairing=AttentionOverLayers()), layers((4, 3, 5)), layers((4, 3, 5)))
        maps = OverLayers(objective=AttentionTransfer(), bridge=ResolutionBridge())
        yield learned(maps, layers((4, 3, 2, 3), (4, 6, 1, 2)), layers((4, 3, 2, 3), (4, 3, 2, 3)), floor=None)
        uneven = layers((4, 3, 5), (4, 3, 5)), layers((4, 3, 5), (4, 3, 7), (4, 3, 7))
        for pairing in (EvenlySpaced(), AttentionOverLayers(width=4)):
            yield learned(OverLayers(pairing=pairing), *uneven, equal=uneven, floor=None)
        labelled = learned(OverLayers(objective=WithLabels()), layers((4, 3)), (layers((4, 3)), torch.arange(4)))
        assert labelled.objective.needs == (ObjectiveInput.LABELS,)  # type: ignore[attr-defined]
        yield labelled

    wrong: ClassVar = (
        (layers((4, 3, 2, 2)), layers((4, 3, 2, 2), (4, 5))),
        ((torch.zeros(4, 3, 2, 2), torch.zeros(3, 5)), (torch.zeros(4, 3, 2, 2), torch.zeros(4, 5))),
    )


class TestEarthMover(ObjectiveLaws):
    """The one that does."""

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield learned(OverLayers(pairing=EarthMover()), *contested())

    wrong: ClassVar = TestOverLayers.wrong


@settings
class WithLabels:
    """A squared difference, counted once more for every class number."""

    card: ClassVar[Card] = Hint.card
    needs: ClassVar = (ObjectiveInput.LABELS,)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        tap, labels = teacher
        if student.shape != tap.shape:
            raise ShapeError(f"{tuple(student.shape)} {tuple(tap.shape)}")
        return (student - tap).square().mean(1) * (labels + 1)


@pytest.mark.parametrize("pairing", PAIRINGS, ids=str)
def test_every_pairing_keeps_the_contract(pairing: Pairing) -> None:
    assert isinstance(pairing, Pairing)
    assert isinstance(pairing.card, Card)
    for students, teachers in [(2, 2), (3, 3)]:
        found = pairing.pairs(students, teachers)
        assert len(set(found)) == len(found)
        assert all(0 <= one < students and 0 <= other < teachers for one, other in found)
        weigher = pairing.weigher([(4, 3)] * students, [(4, 3)] * teachers)
        if weigher is not None:
            taps = layers(*[(4, 3)] * students), layers(*[(4, 3)] * teachers)
            weight = weigher(*taps, torch.rand(4, len(found)))
            assert torch.allclose(weight.expand(4, -1).sum(1), torch.ones(4))
            assert bool((weight >= 0).all())


def test_even_spacing_is_tinyberts_map() -> None:
    for students, teachers in [(4, 12), (6, 12), (2, 24), (3, 3)]:
        expected = tuple((i - 1, i * (teachers // students) - 1) for i in range(1, students + 1))
        assert EvenlySpaced().pairs(students, teachers) == expected
    every = [EvenlySpaced().pairs(*sizes) for sizes in itertools.product(range(1, 9), repeat=2)]
    assert all(found[-1][0] + 1 == len(found) for found in every)
    assert all(found == tuple(sorted(found)) for found in every)
    assert EvenlySpaced().pairs(5, 12)[-1] == (4, 11)  # the last learns from the last, also where nothing divides
    assert EvenlySpaced().pairs(4, 2) == ((0, 0), (1, 0), (2, 1), (3, 1))


def test_the_last_layers_are_counted_from_the_end() -> None:
    assert LastLayers(count=2).pairs(3, 12) == ((1, 10), (2, 11))
    with pytest.raises(ShapeError, match=r"LastLayers.*3 or more, but there are 2 taps of the student and 5"):
        LastLayers(count=3).pairs(2, 5)
    with pytest.raises(ShapeError, match="AsNamed needs as many taps on both sides"):
        AsNamed().pairs(2, 5)


def by_linear_program(cost: np.ndarray[Any, Any]) -> float:
    """The least cost, from the linear program as it stands in the paper."""
    students, teachers = cost.shape
    rows = np.kron(np.eye(students), np.ones(teachers))
    columns = np.kron(np.ones(students), np.eye(teachers))
    given = np.concatenate([np.full(students, 1 / students), np.full(teachers, 1 / teachers)])
    solved = linprog(cost.ravel(), A_eq=np.concatenate([rows, columns]), b_eq=given, bounds=(0, None))
    return float(solved.fun)


@pytest.mark.parametrize("sizes", [(1, 1), (3, 3), (2, 5), (4, 12), (6, 4), (5, 1)], ids=str)
def test_the_plan_of_least_cost_is_the_linear_programs(sizes: tuple[int, int]) -> None:
    torch.manual_seed(sum(sizes))
    for _ in range(5):
        cost = torch.rand(sizes, dtype=torch.float64)
        plan = least_cost_plan(cost)
        assert torch.allclose(plan.sum(1), torch.full((sizes[0],), 1 / sizes[0], dtype=torch.float64))
        assert torch.allclose(plan.sum(0), torch.full((sizes[1],), 1 / sizes[1], dtype=torch.float64))
        expected = by_linear_program(cost.numpy())
        assert float((plan * cost).sum()) == pytest.approx(expected)
        if min(sizes) > 1:  # what moves everything alike, or the most instead of the least, is not the least
            assert float(cost.mean()) > expected + 1e-3
            assert float((least_cost_plan(-cost) * cost).sum()) > expected + 1e-3


def test_the_mean_over_examples_is_the_earth_movers_distance_of_the_batch() -> None:
    student, teacher = layers((6, 3), (6, 3)), layers((6, 3), (6, 3), (6, 3))
    loss = build(OverLayers(pairing=EarthMover()), student, teacher)(student, teacher)
    cost = torch.stack([torch.stack([(s - t).square().mean() for t in teacher]) for s in student])
    assert float(loss.mean()) == pytest.approx(by_linear_program(cost.double().numpy()), rel=1e-5)
    alike = build(OverLayers(pairing=AttentionOverLayers()), student, teacher)(student, teacher).detach()
    assert float(alike.mean()) > float(loss.mean()) + 1e-3


def test_the_earth_mover_finds_layers_that_were_shuffled() -> None:
    teacher = layers((6, 3), (6, 3), (6, 3))
    student = (teacher[2], teacher[0], teacher[1])
    assert float(build(OverLayers(pairing=EarthMover()), student, teacher)(student, teacher).abs().max()) == 0
    assert float(build(OverLayers(), student, teacher)(student, teacher).mean()) > 0.1


def test_fixed_pairs_are_the_mean_of_each_by_itself() -> None:
    student, teacher = layers((4, 3), (4, 5)), layers((4, 3), (4, 3), (4, 5), (4, 5))
    loss = build(OverLayers(), student, teacher)(student, teacher)
    expected = (Hint()(student[0], teacher[1]) + Hint()(student[1], teacher[3])) / 2
    assert torch.allclose(loss, expected)
    assert not torch.allclose(loss, 2 * expected)


def slow_attention(module: Any, student: Any, teacher: Any) -> list[float]:
    found = []
    for example in range(len(student[0])):
        total = 0.0
        for s, query in zip(student, module.weigher.queries, strict=True):
            scores = []
            for t, key in zip(teacher, module.weigher.keys, strict=True):
                q = query(s[example].mean(0)).detach().numpy()
                k = key(t[example].mean(0)).detach().numpy()
                scores.append(float(q @ k) / np.sqrt(len(q)))
            weights = np.exp(scores) / np.exp(scores).sum()
            losses = [float((s[example] - t[example]).square().mean()) for t in teacher]
            total += float(weights @ losses) / len(student)
        found.append(total)
    return found


def test_attention_over_layers_written_out() -> None:
    torch.manual_seed(1)
    student, teacher = layers((3, 4, 5), (3, 4, 5)), layers((3, 4, 5), (3, 4, 5), (3, 4, 5))
    module = build(OverLayers(pairing=AttentionOverLayers(width=6)), student, teacher)
    expected = slow_attention(module, student, teacher)
    assert module(student, teacher).tolist() == pytest.approx(expected, rel=1e-5)
    assert module(student, teacher).tolist() != pytest.approx(slow_attention(module, student, teacher[::-1]), rel=1e-3)


def test_what_learns_gets_a_gradient() -> None:
    student, teacher = layers((4, 3, 6), (4, 9, 6)), layers((4, 3, 5), (4, 3, 5))
    for pairing in PAIRINGS:
        module = build(OverLayers(pairing=pairing), student, teacher).train()
        module(student, teacher).sum().backward()
        used = {f"bridges.{number}" for number in range(len(pairing.pairs(2, 2)))}
        without = {name for name, p in module.named_parameters() if p.grad is None}
        assert not without, (pairing, without)
        assert all(any(name.startswith(each) for name, _ in module.named_parameters()) for each in used)


class Counting(nn.Module):
    """An objective with state that remembers what it was told."""

    card: ClassVar[Card] = Hint.card

    def __init__(self) -> None:
        super().__init__()
        self.told: list[float] = []

    def during(self, progress: float) -> nn.Module:
        self.told.append(progress)
        return self

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean(1)


@settings
class Counted:
    """Builds it."""

    card: ClassVar[Card] = Hint.card

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        assert task.classes == 3
        return Counting()


def test_an_objective_with_state_is_built_for_each_pair_and_told_the_progress() -> None:
    student, teacher = layers((4, 3), (4, 3)), layers((4, 3), (4, 3))
    module: Any = build(OverLayers(objective=Counted()), student, teacher)
    module.during(0.25)(student, teacher)
    assert [each.told for each in module.learned] == [[0.25], [0.25]]


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"several taps on both sides, but the student has \(4, 3\)"):
        OverLayers().objective_for((4, 3), (4, 3), TaskFacts(examples=4))
    with pytest.raises(SettingError, match="a module that is already built"):
        OverLayers(objective=Counting())
    module = build(OverLayers(), layers((4, 3)), layers((4, 3)))
    with pytest.raises(ShapeError, match=r"built for 1 and 1 taps, but the student has \(\(4, 3\), \(4, 3\)\)"):
        module(layers((4, 3), (4, 3)), layers((4, 3)))


def small(width: int) -> nn.Module:
    torch.manual_seed(width)
    return residual(width=width, depth=8, classes=3)


def test_on_edges_of_networks_and_through_a_stop(tmp_path: Path) -> None:
    """Three layers each: fused and compared as named, moved, attended to; a run that was left goes on bit for bit."""
    images, drawn = torch.randn(24, 1, 8, 8), torch.randint(3, (24,))
    parts = [ArrayExamples(images[part], drawn[part]) for part in (slice(0, 16), slice(16, 20), slice(20, 24))]
    data = Data(train=parts[0], validation=parts[1], test=parts[2], classes=("a", "b", "c"))
    where = taps("layer1", "layer2", "layer3")
    fused = at(where, OverLayers(pairing=AsNamed(), bridge=None), bridge=FusionBridge(width=4))
    moved, attended = (at(where, OverLayers(pairing=pairing)) for pairing in (EarthMover(), AttentionOverLayers()))
    scheme = Offline(knowledge=(fused, moved, attended), epochs=3, fit=Fit(batch=8, keep_best=False))

    def train(folder: str, stops: list[int]) -> dict[str, Tensor]:
        for stop in [*stops, 99]:
            student = small(2)
            stages = scheme.stages({"teacher": small(4), "student": student})
            steps = Course(stages, data, folder=tmp_path / folder, device="cpu", resume=True).steps()
            for _ in zip(range(stop), steps, strict=False):
                pass
            steps.close()
        return student.state_dict()

    whole, left = train("whole", []), train("left", [3])
    assert all(torch.equal(value, left[name]) for name, value in whole.items())
    assert not torch.equal(whole["layer1.0.conv1.weight"], small(2).state_dict()["layer1.0.conv1.weight"])
