"""Objectives over tokens: which tokens count, how they are averaged, and what the objective inside sees."""

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Card, ObjectiveInput, settings
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.graph import Edge, Flow, Graph, Labels, Network, Stage
from lessen.knowledge import (
    CrossEntropy,
    ForwardKL,
    Hint,
    JensenShannon,
    LogitMatching,
    OverTokens,
    ReverseKL,
    SkewedForwardKL,
    SkewedReverseKL,
    SoftTargets,
    TopClasses,
    TotalVariation,
)
from lessen.knowledge.sequences.over_tokens import counted, per_sequence
from lessen.testing import ObjectiveCase, ObjectiveLaws
from lessen.zoo import language_model

LABELS = torch.tensor([[-100, 3, 1, 2, -100], [4, 0, 2, 1, 3], [-100, -100, -100, 1, 0], [-100] * 5])
DIVERGENCES = (
    ForwardKL(),
    ReverseKL(),
    SkewedForwardKL(),
    SkewedReverseKL(),
    JensenShannon(share=0.1),
    TotalVariation(),
    TopClasses(count=2),
)


def logits(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    both = 2 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return both[0], both[1]


def tokens(divergence: Any, **more: Any) -> OverTokens:
    return OverTokens(objective=SoftTargets(temperature=1.0, divergence=divergence), **more)


def offset(student: Tensor, teacher: Any) -> tuple[Any, Any]:
    shift = torch.arange(student.shape[1]).to(student)[:, None]
    return student + shift, (teacher[0] - shift, teacher[1])


def padding_changes(student: Tensor, teacher: Any) -> tuple[Any, Any]:
    """Whatever stands where no token counts, not even a number."""
    beyond = torch.where(counted(teacher[1], shift=True), 0.0, torch.nan)[..., None]
    return student + beyond, (teacher[0] + beyond, teacher[1])


class TestOverTokens(ObjectiveLaws):
    invariances = (offset, padding_changes)
    wrong: ClassVar = (
        (torch.zeros(3, 5, 7), (torch.zeros(3, 5, 8), torch.zeros(3, 5, dtype=torch.long))),
        (torch.zeros(3, 5, 7), (torch.zeros(3, 4, 7), torch.zeros(3, 5, dtype=torch.long))),
        (torch.zeros(3, 5, 7), (torch.zeros(3, 5, 7), torch.zeros(3, 4, dtype=torch.long))),
        (torch.zeros(3, 5), (torch.zeros(3, 5), torch.zeros(3, 5, dtype=torch.long))),
    )

    @classmethod
    def cases(cls) -> Iterator[ObjectiveCase]:
        student, teacher = logits(4, 5, 5)
        for divergence in DIVERGENCES:
            yield ObjectiveCase(objective=tokens(divergence), student=student, teacher=(teacher, LABELS))
        many = (OverTokens(tokens=2.5), OverTokens(objective=LogitMatching()))
        for objective in many[:1]:
            yield ObjectiveCase(objective=objective, student=student, teacher=(teacher, LABELS))
        yield ObjectiveCase(objective=OverTokens(), student=student, teacher=(teacher, LABELS != -100))


class TestOverTokensOfFeatures(ObjectiveLaws):
    """Other layouts, and objectives that see a common offset."""

    invariances = (padding_changes,)
    wrong = TestOverTokens.wrong

    @classmethod
    def cases(cls) -> Iterator[ObjectiveCase]:
        student, teacher = logits(4, 5, 3)
        for objective in (LogitMatching(), Hint()):
            case = OverTokens(objective=objective)
            yield ObjectiveCase(objective=case, student=student, teacher=(teacher, LABELS))


class TestOverTokensInTheOtherLayout(ObjectiveLaws):
    wrong = TestOverTokens.wrong

    @classmethod
    def cases(cls) -> Iterator[ObjectiveCase]:
        student, teacher = logits(4, 6, 5)
        case = OverTokens(vocabulary_last=False, shift=False)
        yield ObjectiveCase(objective=case, student=student, teacher=(teacher, LABELS))


class TestOverTokensOfLabels(ObjectiveLaws):
    wrong: ClassVar = (
        (torch.zeros(3, 5, 7), (torch.zeros(3, 4, dtype=torch.long),) * 2),
        (torch.zeros(3, 5), (torch.zeros(3, 5, dtype=torch.long),) * 2),
    )

    @classmethod
    def cases(cls) -> Iterator[ObjectiveCase]:
        student, _ = logits(4, 5, 6)
        sure = 100.0 * F.one_hot(LABELS.clamp_min(0).roll(-1, 1), 6).double()
        yield ObjectiveCase(
            objective=OverTokens(objective=CrossEntropy()),
            student=student,
            teacher=(LABELS, LABELS),
            equal=(sure, (LABELS, LABELS)),
        )


def slow(student: Tensor, teacher: Tensor, labels: Tensor, *, shift: int) -> list[float]:
    """KL(teacher || student), sequence by sequence, token by token, word by word."""
    found = []
    for row in range(len(labels)):
        losses = []
        for place in range(labels.shape[1] - shift):
            if labels[row, place + shift] == -100:
                continue
            t, s = teacher[row, place].softmax(0).tolist(), student[row, place].softmax(0).tolist()
            losses.append(sum(a * (math.log(a) - math.log(b)) for a, b in zip(t, s, strict=True)))
        found.append(sum(losses) / len(losses) if losses else 0.0)
    return found


@pytest.mark.parametrize("shift", [True, False])
def test_it_is_the_divergence_of_each_token_that_counts(shift: bool) -> None:
    student, teacher = logits(4, 5, 6)
    got = OverTokens(shift=shift)(student, (teacher, LABELS)).tolist()
    assert got == pytest.approx(slow(student, teacher, LABELS, shift=int(shift)))
    assert got != pytest.approx(slow(student, teacher, LABELS, shift=int(not shift)), rel=1e-3)
    assert got[3] == 0.0  # a sequence that nothing is known of teaches nothing
    swapped = [each.transpose(1, 2) for each in (student, teacher)]
    other = OverTokens(shift=shift, vocabulary_last=False)(swapped[0], (swapped[1], LABELS))
    assert other.tolist() == pytest.approx(got)


def test_labels_are_pytorchs_cross_entropy_with_its_ignored_index() -> None:
    student, _ = logits(4, 5, 6)
    got = OverTokens(objective=CrossEntropy())(student, (LABELS, LABELS))
    for row in range(3):
        expected = F.cross_entropy(student[row, :-1], LABELS[row, 1:], ignore_index=-100)
        assert float(got[row]) == pytest.approx(float(expected))
        unshifted = F.cross_entropy(student[row], LABELS[row], ignore_index=-100)
        assert float(got[row]) != pytest.approx(float(unshifted), rel=1e-3)


def test_a_constant_number_of_tokens_weighs_every_token_alike_however_a_batch_is_cut() -> None:
    student, teacher = logits(3, 5, 6)
    labels = LABELS[:3]
    count = counted(labels, shift=True).sum()
    assert int(count) == 3 + 4 + 2
    each = OverTokens(tokens=float(count) / 3)(student, (teacher, labels))
    mask = counted(labels, shift=True)
    every = SoftTargets(temperature=1.0)(student[mask], teacher[mask])
    assert float(each.mean()) == pytest.approx(float(every.mean()))
    parts = [
        OverTokens(tokens=float(count) / 3)(student[i : i + 1], (teacher[i : i + 1], labels[i : i + 1]))
        for i in range(3)
    ]
    assert torch.allclose(torch.cat(parts), each)
    # The mean over sequences is another number, and so is what dividing by all positions gives.
    assert float(OverTokens()(student, (teacher, labels)).mean()) != pytest.approx(float(every.mean()), rel=1e-3)
    assert float(every.sum()) / mask.numel() != pytest.approx(float(every.mean()), rel=1e-3)


def test_the_most_probable_words_and_the_rest_are_the_dense_loss_when_all_are_kept() -> None:
    student, teacher = logits(4, 5, 9)
    for divergence in (ForwardKL(), ReverseKL(), JensenShannon()):
        dense = tokens(divergence)(student, (teacher, LABELS))
        whole = tokens(TopClasses(count=9, divergence=divergence))(student, (teacher, LABELS))
        assert torch.allclose(whole, dense, atol=1e-12)
        # One word less and its rest is that word alone: still the same. Without the rest it is not.
        but_one = tokens(TopClasses(count=8, divergence=divergence))(student, (teacher, LABELS))
        assert torch.allclose(but_one, dense, atol=1e-9)
        kept = tokens(TopClasses(count=8, rest=False, divergence=divergence))(student, (teacher, LABELS))
        assert not torch.allclose(kept, dense, atol=1e-4)
        few = tokens(TopClasses(count=3, divergence=divergence))(student, (teacher, LABELS))
        assert bool((few[:3] < dense[:3]).all())  # what is put together can only agree better


def test_the_identities_of_generalised_jensen_shannon_hold_for_tokens() -> None:
    student, teacher = logits(4, 5, 6)
    at = {share: tokens(JensenShannon(share=share))(student, (teacher, LABELS)) for share in (1e-6, 0.5, 1 - 1e-6)}
    forward, reverse = (tokens(d)(student, (teacher, LABELS)) for d in (ForwardKL(), ReverseKL()))
    assert torch.allclose(at[1e-6] / 1e-6, forward, rtol=1e-4)
    assert torch.allclose(at[1 - 1e-6] / 1e-6, reverse, rtol=1e-4)
    assert not torch.allclose(at[1e-6] / 1e-6, reverse, rtol=1e-2)
    assert bool((at[1e-6] < 1e-4).all())  # itself it goes to nothing at both ends
    assert torch.allclose(at[0.5], tokens(JensenShannon(share=0.5))(teacher, (student, LABELS)))
    assert bool((at[0.5] <= math.log(2)).all())
    far = tokens(JensenShannon(share=0.5))(100 * student, (-100 * student, LABELS))
    assert torch.allclose(far[:3], torch.full((3,), math.log(2), dtype=torch.float64), atol=1e-3)
    # A mixture of log-probabilities, in place of probabilities, is another number.
    s, t = student.log_softmax(-1), teacher.log_softmax(-1)
    wrong = ((s + t) / 2).log_softmax(-1)
    geometric = ((t.exp() * (t - wrong)).sum(-1) + (s.exp() * (s - wrong)).sum(-1)) / 2
    assert not torch.allclose(
        per_sequence(geometric[counted(LABELS, shift=True)], counted(LABELS, shift=True)), at[0.5], rtol=1e-2
    )


def test_padding_of_the_vocabulary_adds_no_mass() -> None:
    student, teacher = logits(4, 5, 6)
    expected = OverTokens()(student, (teacher, LABELS))
    padded = F.pad(student, (0, 4)), F.pad(teacher, (0, 2))  # released models pad with logits near 0
    assert torch.allclose(OverTokens(vocabulary=6)(padded[0], (padded[1], LABELS)), expected)
    both = F.pad(student, (0, 2)), F.pad(teacher, (0, 2))
    assert not torch.allclose(OverTokens()(both[0], (both[1], LABELS)), expected, rtol=1e-2)
    with pytest.raises(ShapeError, match=r"same vocabulary.*\(4, 5, 10\).*\(4, 5, 8\).*one tokenizer.*`vocabulary`"):
        OverTokens()(padded[0], (padded[1], LABELS))


@settings
class Told:
    """Gives back what it is told: the label, and the number of the example."""

    card: ClassVar[Card] = Hint.card
    needs: ClassVar = (ObjectiveInput.LABELS, ObjectiveInput.INDEX)
    scale: float = 1.0

    def during(self, progress: float) -> "Told":
        return Told(scale=progress)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        _, labels_M, index_M = teacher
        assert len(student) == len(labels_M) == len(index_M)
        return self.scale * (labels_M + 10 * index_M).to(student)


def test_the_objective_inside_is_told_the_label_and_number_of_each_token() -> None:
    student, teacher = logits(4, 5, 6)
    told = OverTokens(objective=Told(), tokens=1.0)
    assert told.needs == (ObjectiveInput.LABELS, ObjectiveInput.INDEX)
    got = told(student, (teacher, LABELS, torch.tensor([1, 0, 3, 9])))
    assert got.tolist() == [3 + 1 + 2 + 30, 0 + 2 + 1 + 3, 1 + 0 + 60, 0]
    half = told.during(0.5)(student, (teacher, LABELS, torch.tensor([1, 0, 3, 9])))
    assert torch.equal(half, got / 2)
    assert OverTokens().during(0.5) == OverTokens()


def test_what_cannot_be_a_label_is_refused_with_advice() -> None:
    student, teacher = logits(4, 5, 6)
    with pytest.raises(DataError, match=r"float64 of shape \(4, 5\).*Mixed sequences"):
        OverTokens()(student, (teacher, LABELS.double()))
    with pytest.raises(DataError, match="a mask instead"):
        OverTokens(objective=Told())(student, (teacher, LABELS != -100, torch.arange(4)))
    with pytest.raises(SettingError, match="without state"):
        OverTokens(objective=Module())


class Module(nn.Module):
    card: ClassVar[Card] = Hint.card

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return (student - teacher).square().mean(1)


def test_on_edges_of_language_models() -> None:
    torch.manual_seed(0)
    student, teacher = (language_model(vocabulary=6, length=5, dim=dim, depth=1) for dim in (8, 12))
    edges = [
        Edge(source="t", target="s", objective=tokens(SkewedReverseKL())),
        Edge(source="labels", target="s", objective=OverTokens(objective=CrossEntropy(smoothing=0.1))),
    ]
    nodes = [Labels(), Network(name="t", module=teacher, learns=False), Network(name="s", module=student, learns=True)]
    batch = Batch(LABELS.clamp_min(0), torch.arange(4), LABELS)
    flow = Flow(Stage(name="s", graph=Graph(nodes=nodes, edges=edges), epochs=1), batch)
    passed = flow(batch, 0.0)
    passed.total.backward()
    assert all(parameter.grad is not None for parameter in student.parameters())
    with torch.no_grad():
        expected = tokens(SkewedReverseKL())(student(batch.inputs), (teacher(batch.inputs), LABELS)).mean()
    assert float(passed.losses[0]) == pytest.approx(float(expected), rel=1e-5)
    flow.close()
