"""Between layers: laws, formulas written out slowly with a mistake that the comparison finds, and real transformers."""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import TaskFacts
from lessen.core.errors import ShapeError
from lessen.functional.singular import right_singular_vectors
from lessen.graph import Edge, Flow, Graph, Network, Stage
from lessen.knowledge import (
    AbsoluteDistance,
    AttentionRelations,
    AttentionScores,
    FactorTransfer,
    ForwardKL,
    Hint,
    JensenShannon,
    MultiHeadGraph,
    SelfRelations,
    SingularVectors,
    SolutionFlow,
    WidthBridge,
)
from lessen.knowledge.layers.heads import relation
from lessen.knowledge.layers.singular_vectors import align
from lessen.surgery.taps import Tap, capture, taps
from lessen.surgery.values import map_values, shapes_of
from lessen.testing import ObjectiveCase, ObjectiveLaws, learned
from lessen.zoo import transformer

Several = tuple[Tensor, ...]


def several(*shapes: tuple[int, ...], seed: int = 4) -> Several:
    drawn = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, dtype=torch.float64, generator=drawn) for shape in shapes)


def places_of_one_side(student: Several, teacher: Several) -> tuple[Several, Several]:
    """The positions of one network's taps in another order, the same for all its taps."""
    return tuple(tap.flip(2 if tap.ndim == 4 else 1) for tap in student), teacher


def channels_of_a_tap(student: Several, teacher: Several) -> tuple[Several, Several]:
    def change(side: Several) -> Several:
        return (side[0].flip(1 if side[0].ndim == 4 else 2), *side[1:])

    return change(student), change(teacher)


def negated(student: Several, teacher: Several) -> tuple[Several, Several]:
    return tuple(-tap for tap in student), (-teacher[0], *teacher[1:])


def larger(student: Several, teacher: Several) -> tuple[Several, Several]:
    return tuple(3 * tap for tap in student), tuple(tap / 2 for tap in teacher)


def tokens_moved(student: Several | Tensor, teacher: Several | Tensor) -> tuple[Any, Any]:
    """All tokens in another order."""
    return map_values(lambda tap: tap.roll(1, 1), student), map_values(lambda tap: tap.roll(1, 1), teacher)


WORDS = torch.tensor([[7, 4, 9, 2, 3], [5, 6, 3, 0, 0], [8, 0, 0, 0, 0], [0, 2, 2, 0, 4]])

WRONG = (
    (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 2)),
    ((torch.zeros(3, 4, 2, 2),), (torch.zeros(3, 4, 2, 2),)),
    ((torch.zeros(3, 4, 2, 2), torch.zeros(3, 4)), (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4))),
    ((torch.zeros(3, 4, 2, 2),) * 2, (torch.zeros(4, 4, 2, 2),) * 2),
    ((torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 2)), (torch.zeros(3, 4, 2, 2), torch.zeros(3, 5, 2, 2))),
)
MAPS = (((4, 3, 4, 4), (4, 2, 2, 2)), ((4, 3, 3, 2), (4, 2, 3, 2)))
TOKENS = (((4, 5, 3), (4, 5, 2)), ((4, 6, 3), (4, 6, 2)))


class TestSolutionFlow(ObjectiveLaws):
    wrong = (*WRONG, ((torch.zeros(3, 4, 2),) * 3, (torch.zeros(3, 4, 2),) * 3))
    invariances = (places_of_one_side, channels_of_a_tap)
    largest = 8.0  # squares of products of squares

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (SolutionFlow(), SolutionFlow(largest=True), SolutionFlow(distance=AbsoluteDistance())):
            student, teacher = several(*MAPS[0]), several(*MAPS[1], seed=5)
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher)
        student, teacher = several(*TOKENS[0]), several(*TOKENS[1], seed=5)
        yield ObjectiveCase(objective=SolutionFlow(), student=student, teacher=teacher)


class TestSingularVectors(ObjectiveLaws):
    wrong = WRONG
    invariances = (places_of_one_side, channels_of_a_tap, negated, larger)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (SingularVectors(), SingularVectors(vectors=2, spare=0)):
            student, teacher = several(*MAPS[0]), several(*MAPS[1], seed=5)
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher)
        # Three taps, of tokens, one with more channels than positions.
        student = several(*TOKENS[0], (4, 5, 7))
        yield ObjectiveCase(
            objective=SingularVectors(vectors=2), student=student, teacher=several(*TOKENS[1], (4, 6, 7), seed=5)
        )


class TestMultiHeadGraph(ObjectiveLaws):
    wrong = WRONG
    invariances = (places_of_one_side, negated, larger)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for settings in (MultiHeadGraph(heads=2), MultiHeadGraph(heads=3, divergence=ForwardKL(), prepare=0.0)):
            case = learned(settings, several(*MAPS[0]), several(*MAPS[1], seed=5))
            case.objective.during(1.0)  # type: ignore[attr-defined]
            yield case
        case = learned(MultiHeadGraph(heads=1), several(*TOKENS[0], (4, 5, 3)), several(*TOKENS[1], (4, 6, 3), seed=5))
        case.objective.during(1.0)  # type: ignore[attr-defined]
        yield case


NO_HEADS = (
    (torch.zeros(3, 4), torch.zeros(3, 4)),
    (torch.zeros(3, 5, 8), torch.zeros(3, 5, 8)),
    ((torch.zeros(3, 5, 8),) * 4, (torch.zeros(3, 5, 8),) * 4),
    ((torch.zeros(3, 5, 6),) * 3, (torch.zeros(3, 5, 8),) * 3),
    ((torch.zeros(3, 5, 8),) * 3, (torch.zeros(3, 6, 8),) * 3),
    ((torch.zeros(3, 5, 8),) * 3, (torch.zeros(3, 5, 8),) * 2),
)


class TestAttentionScores(ObjectiveLaws):
    wrong = (*NO_HEADS, ((torch.zeros(3, 5, 8),) * 3, (torch.zeros(3, 5, 8),) * 3))
    invariances = (tokens_moved,)
    largest = 4.0  # squares of products

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = several((4, 5, 4), (4, 5, 4)), several((4, 5, 8), (4, 5, 8), seed=5)
        yield ObjectiveCase(objective=AttentionScores(), student=student, teacher=teacher)
        objective = AttentionScores(heads=2, distance=AbsoluteDistance())
        yield ObjectiveCase(objective=objective, student=student, teacher=torch.cat([*teacher, teacher[0]], 2))


class TestAttentionRelations(ObjectiveLaws):
    wrong = (*NO_HEADS, ((torch.zeros(3, 5, 8),) * 2, (torch.zeros(3, 5, 8),) * 2))
    invariances = (tokens_moved,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = several(*[(4, 5, 4)] * 3), several(*[(4, 5, 8)] * 3, seed=5)
        for objective in (AttentionRelations(), AttentionRelations(heads=2, divergence=JensenShannon())):
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher)
        yield ObjectiveCase(objective=AttentionRelations(), student=torch.cat(student, 2), teacher=teacher)


class TestRelationsWithPadding(ObjectiveLaws):
    wrong = (
        ((torch.zeros(3, 5, 8),) * 3, (torch.zeros(3, 5, 8),) * 3),
        ((torch.zeros(3, 5, 8),) * 2, (*(torch.zeros(3, 5, 8),) * 3, torch.ones(3, 5, dtype=torch.long))),
    )
    invariances = (tokens_moved,)
    largest = 4.0  # squares of products

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = several(*[(4, 5, 4)] * 3), several(*[(4, 5, 4)] * 3, seed=5)
        for objective, count in (
            (AttentionRelations(padding=0), 3),
            (SelfRelations(padding=0, divergence=JensenShannon()), 3),
            (AttentionScores(padding=0), 2),
        ):
            sides = student[:count], (*teacher[:count], WORDS)
            yield ObjectiveCase(
                objective=objective, student=sides[0], teacher=sides[1], equal=(teacher[:count], sides[1])
            )


class TestSelfRelations(ObjectiveLaws):
    wrong = NO_HEADS
    invariances = (tokens_moved,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = several(*[(4, 5, 4)] * 3), several(*[(4, 5, 8)] * 3, seed=5)
        for objective in (SelfRelations(), SelfRelations(heads=2, divergence=JensenShannon())):
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher)
        yield ObjectiveCase(objective=SelfRelations(heads=1), student=student[2:], teacher=teacher[2:])
        yield ObjectiveCase(
            objective=SelfRelations(heads=2), student=torch.cat(student, 2), teacher=torch.cat(teacher, 2)
        )


def test_autocast_does_not_take_digits_from_products() -> None:
    suites: list[type[ObjectiveLaws]] = [TestSolutionFlow, TestSingularVectors, TestMultiHeadGraph]
    suites += [TestAttentionScores, TestAttentionRelations, TestSelfRelations]
    for case in (case for suite in suites for case in suite.cases()):
        student, teacher = (map_values(lambda tap: tap.float(), side) for side in (case.student, case.teacher))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = case.objective(student, teacher)
        assert torch.equal(loss, case.objective(student, teacher)), case


# The flow of solution procedure


def slow_flow(first: Tensor, second: Tensor) -> Any:
    channels, others = len(first), len(second)
    height, width = first.shape[1:]
    out = np.zeros((channels, others))
    for i, j, y, x in itertools.product(range(channels), range(others), range(height), range(width)):
        out[i, j] += float(first[i, y, x] * second[j, y, x])
    return out / (height * width)


def test_solution_flow_is_the_mean_product_of_channels() -> None:
    student, teacher = several((2, 3, 2, 2), (2, 4, 2, 2)), several((2, 3, 3, 2), (2, 4, 3, 2), seed=5)
    loss = SolutionFlow()(student, teacher)
    for number in range(2):
        flows = [slow_flow(side[0][number], side[1][number]) for side in (student, teacher)]
        assert float(loss[number]) == pytest.approx(((flows[0] - flows[1]) ** 2).mean())
        # Planted: without the number of positions, which the two networks need not share.
        wrong = (4 * flows[0] - 6 * flows[1]) ** 2
        assert float(loss[number]) != pytest.approx(wrong.mean(), rel=1e-2)


@pytest.mark.parametrize("largest", [False, True])
def test_the_larger_of_two_maps_is_pooled(largest: bool) -> None:
    student, teacher = several((2, 3, 4, 4), (2, 4, 2, 2)), several((2, 3, 2, 2), (2, 4, 2, 2), seed=5)
    cells = student[0].unfold(2, 2, 2).unfold(3, 2, 2).flatten(4)
    pools = {True: cells.amax(4), False: cells.mean(4)}
    loss = SolutionFlow(largest=largest)(student, teacher)
    assert torch.allclose(loss, SolutionFlow()((pools[largest], student[1]), teacher))
    assert not torch.allclose(loss, SolutionFlow()((pools[not largest], student[1]), teacher))


def test_what_changes_between_layers_is_taught_and_not_the_features() -> None:
    """Identity: 0 at equality, and also where two layers change alike though their features differ."""
    teacher = several((3, 3, 2, 2), (3, 4, 2, 2))
    assert float(SolutionFlow()(teacher, teacher).abs().max()) == 0
    turned = tuple(tap.flip(2) for tap in teacher)
    assert torch.allclose(SolutionFlow()(turned, teacher), torch.zeros(3, dtype=torch.float64))
    assert float(Hint()(turned[0], teacher[0]).min()) > 0.1
    assert float(SolutionFlow()((turned[0], teacher[1]), teacher).min()) > 1e-3


# Singular vectors


def test_singular_vectors_are_numpys_up_to_sign() -> None:
    (matrix,) = several((3, 6, 4))
    for given in (matrix, matrix.transpose(1, 2)):
        vectors, values = right_singular_vectors(given, 3)
        for number in range(3):
            _, expected, right = np.linalg.svd(given[number].numpy())
            assert values[number].numpy() == pytest.approx(expected[:3])
            assert np.abs(right[:3] @ vectors[number].numpy()) == pytest.approx(np.eye(3), abs=1e-9)
            assert np.abs(right[1:4] @ vectors[number].numpy()) != pytest.approx(np.eye(3), abs=1e-2)
        assert bool((vectors.sum(1) >= 0).all())


def test_their_gradient_is_finite_where_singular_values_are_equal() -> None:
    """Two equal, and two nearly equal, singular values: PyTorch's own gradient is not finite."""
    matrix = torch.diag(torch.tensor([2.0, 2.0, 1.0, 0.0]))[None].repeat(2, 1, 1)
    matrix[1] += 1e-4 * torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(1))

    def gradient(vectors_of: Callable[[Tensor], Tensor]) -> Tensor:
        given = matrix.clone().requires_grad_()
        (made,) = torch.autograd.grad((vectors_of(given) * weights).sum(), given)
        return made

    def plain(given: Tensor) -> Tensor:
        return torch.linalg.svd(given)[2][:, :2].transpose(1, 2)

    ours = gradient(lambda given: right_singular_vectors(given, 2)[0])
    assert bool(torch.isfinite(ours).all())
    assert float(ours.abs().max()) < 1e3
    assert not torch.isfinite(gradient(plain)).all()


def slow_singular(tap: Tensor, count: int) -> tuple[Any, Any]:
    """Vectors as columns, and singular values, of a map's positions x channels, with the rule for signs."""
    matrix = tap.flatten(1).T.numpy()
    _, values, right = np.linalg.svd(matrix, full_matrices=False)
    vectors = right[:count].T
    return vectors * np.where(vectors.sum(0) < 0, -1.0, 1.0), values[:count]


def slow_singular_loss(student: Several, teacher: Several, count: int, spare: int, *, aligned: bool = True) -> float:
    made = []
    for s, t in zip(student, teacher, strict=True):
        vectors, values = slow_singular(t, count)
        own, _ = slow_singular(s, count + spare)
        chosen = own[:, : vectors.shape[1]].copy()
        if aligned:
            for k in range(vectors.shape[1]):
                cosine = own.T @ vectors[:, k]
                best = int(np.abs(cosine).argmax())
                chosen[:, k] = own[:, best] * np.sign(cosine[best])
        scale = values / np.sqrt((values**2).sum())
        made.append((chosen * scale, vectors * scale))
    total = 0.0
    for (s1, t1), (s2, t2) in itertools.pairwise(made):
        for k in range(min(s1.shape[1], s2.shape[1])):
            for i, j in itertools.product(range(len(s1)), range(len(s2))):
                relations = [np.exp(-((a[i, k] - b[j, k]) ** 2) / 8) for a, b in ((s1, s2), (t1, t2))]
                total += (relations[0] - relations[1]) ** 2
    return total


@pytest.mark.parametrize(("count", "spare"), [(1, 3), (2, 1), (3, 0)])
def test_singular_vectors_loss_is_the_formula(count: int, spare: int) -> None:
    shapes = ((5, 4, 3, 3), (5, 6, 2, 2), (5, 3, 2, 3))
    student, teacher = several(*shapes), several(*shapes, seed=6)
    loss = SingularVectors(vectors=count, spare=spare)(student, teacher)
    singles = [([s[n] for s in student], [t[n] for t in teacher]) for n in range(5)]
    expected = [slow_singular_loss(tuple(s), tuple(t), count, spare) for s, t in singles]
    assert loss.tolist() == pytest.approx(expected, rel=1e-7)
    unaligned = [slow_singular_loss(tuple(s), tuple(t), count, spare, aligned=False) for s, t in singles]
    assert loss.tolist() != pytest.approx(unaligned, rel=1e-3)


def test_alignment_finds_the_same_vectors_in_another_order_and_sign() -> None:
    (drawn,) = several((2, 5, 5))
    vectors = torch.linalg.qr(drawn).Q
    shuffled = torch.stack([vectors[:, :, 2], -vectors[:, :, 0], vectors[:, :, 4], vectors[:, :, 1]], 2)
    assert torch.allclose(align(shuffled, vectors[:, :, :2]), vectors[:, :, :2])
    assert not torch.allclose(shuffled[:, :, :2], vectors[:, :, :2])


# Multi-head graphs


def graph_module(heads: int = 2, **settings: Any) -> tuple[Any, Several, Several]:
    torch.manual_seed(0)
    student, teacher = several(*MAPS[0]), several(*MAPS[1], seed=5)
    made = MultiHeadGraph(heads=heads, **settings)
    module: Any = made.objective_for(shapes_of(student), shapes_of(teacher), TaskFacts(examples=10)).double().eval()
    return module, student, teacher


def slow_graphs(module: Any, vectors: list[Any]) -> Any:
    """tanh of key . query for all pairs, head by head: (H, N, N)."""
    made = module.estimator[0]
    with torch.no_grad():
        keys, queries = made.key(torch.tensor(vectors[1])).numpy(), made.query(torch.tensor(vectors[0])).numpy()
    width = keys.shape[1] // made.heads
    return np.array(
        [
            [[np.tanh(k[h * width :][:width] @ q[h * width :][:width]) for q in queries] for k in keys]
            for h in range(made.heads)
        ]
    )


def test_multi_head_graph_compares_rows_with_the_student_first() -> None:
    module, student, teacher = graph_module()
    loss = module.during(1.0)(student, teacher)
    vectors: list[list[Any]] = [[], []]
    for s, t in zip(student, teacher, strict=True):
        theirs = [slow_singular(one, 1)[0][:, 0] for one in t]
        own = [slow_singular(one, 4)[0] for one in s]
        best = [int(np.abs(o.T @ v).argmax()) for o, v in zip(own, theirs, strict=True)]
        chosen = [o[:, b] * np.sign(o[:, b] @ v) for o, b, v in zip(own, best, theirs, strict=True)]
        vectors[0].append(np.array(chosen))
        vectors[1].append(np.array(theirs))
    rows = [
        np.exp(graphs) / np.exp(graphs).sum(2, keepdims=True) for graphs in (slow_graphs(module, v) for v in vectors)
    ]
    reverse = (rows[0] * np.log(rows[0] / rows[1])).sum((0, 2))
    forward = (rows[1] * np.log(rows[1] / rows[0])).sum((0, 2))
    assert loss.tolist() == pytest.approx(reverse.tolist())
    assert loss.tolist() != pytest.approx(forward.tolist(), rel=1e-4)
    other = graph_module(divergence=ForwardKL())[0].during(1.0)
    assert other(student, teacher).tolist() == pytest.approx(forward.tolist())


def test_its_heads_predict_the_next_layer() -> None:
    module, student, teacher = graph_module()
    loss = module.during(0.0)(student, teacher)
    vectors = [np.array([slow_singular(one, 1)[0][:, 0] for one in tap]) for tap in teacher]
    made = module.estimator[0]
    with torch.no_grad():
        keys, queries = made.key(torch.tensor(vectors[1])), made.query(torch.tensor(vectors[0]))
        weights = [k @ q.T for k, q in zip(keys.chunk(2, 1), queries.chunk(2, 1), strict=True)]
        mixed = torch.cat([w.softmax(1) @ made.value(torch.tensor(vectors[0])) for w in weights], 1)
        expected = 1 - F.cosine_similarity(made.predict(mixed), torch.tensor(vectors[1]))
        backwards = torch.cat([w.softmax(0) @ made.value(torch.tensor(vectors[0])) for w in weights], 1)
    assert torch.allclose(loss, expected)
    wrong = 1 - F.cosine_similarity(made.predict(backwards), torch.tensor(vectors[1]))
    assert not torch.allclose(loss, wrong)


def test_heads_learn_the_teacher_first_and_are_then_frozen() -> None:
    module, student, teacher = graph_module(prepare=0.25)
    student = tuple(tap.requires_grad_() for tap in student)
    module.train()

    def gradients(progress: float) -> tuple[bool, bool]:
        module.zero_grad()
        loss = module.during(progress)(student, teacher).sum()
        own = torch.autograd.grad(loss, student, allow_unused=True, retain_graph=True)
        frozen = not any(weight.requires_grad for weight in module.parameters())
        return any(g is not None and float(g.abs().max()) > 0 for g in own), frozen

    assert gradients(0.0) == (False, False)
    assert gradients(0.2) == (False, False)
    assert module.estimator.training
    assert gradients(0.25) == (True, True)
    module.train()
    assert module.training
    assert not any(part.training for part in module.estimator.modules())
    statistics = [buffer.clone() for buffer in module.buffers()]
    module(student, teacher)
    assert all(torch.equal(*pair) for pair in zip(statistics, module.buffers(), strict=True))
    # A new run of the stage begins again.
    assert gradients(0.0) == (False, False)
    assert module.estimator.training


def test_what_does_not_fit_is_refused_before_anything_learns() -> None:
    """While it prepares the student is not looked at, so its shapes are checked when the objective is made."""
    fits = ((4, 3, 4, 4), (4, 2, 2, 2))
    for other in (((4, 3, 4, 4), (4, 5, 2, 2)), ((4, 3, 4, 4),), (4, 3, 4, 4)):
        with pytest.raises(ShapeError) as error:
            MultiHeadGraph().objective_for(other, fits, TaskFacts(examples=10))
        assert str(fits[1]) in str(error.value)
    for other in ((4, 3, 4, 5), (4, 3), fits):
        with pytest.raises(ShapeError, match=r"\(4, 3, 4, 4\)"):
            FactorTransfer().objective_for(other, fits[0], TaskFacts(examples=10))


def test_prepared_heads_know_the_teacher_better_than_they_were_drawn() -> None:
    drawn = torch.Generator().manual_seed(0)
    first = torch.randn(64, 6, 2, 2, generator=drawn).abs()
    second = torch.einsum("nchw,cd->ndhw", first, torch.randn(6, 8, generator=drawn))
    torch.manual_seed(0)
    module: Any = MultiHeadGraph(heads=4, drop=0.0).objective_for(
        ((64, 6, 2, 2), (64, 8, 2, 2)), ((64, 6, 2, 2), (64, 8, 2, 2)), TaskFacts(examples=64)
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        loss = module.during(0.0)((first, second), (first, second)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


# Transformers


def slow_relation(queries: Tensor, keys: Tensor, heads: int) -> Any:
    """(H, T, T) of one example, before the softmax."""
    width = queries.shape[1] // heads
    out = np.zeros((heads, len(queries), len(keys)))
    for h, i, j in itertools.product(range(heads), range(len(queries)), range(len(keys))):
        part = slice(h * width, (h + 1) * width)
        out[h, i, j] = float(queries[i, part] @ keys[j, part]) / np.sqrt(width)
    return out


def slow_kl(student: Any, teacher: Any) -> float:
    """Mean over heads and rows of KL(teacher || student) of the softmax."""
    s, t = (np.exp(x) / np.exp(x).sum(2, keepdims=True) for x in (student, teacher))
    return float((t * np.log(t / s)).sum(2).mean())


def test_scores_and_relations_are_the_formulas_token_by_token() -> None:
    student, teacher = several(*[(2, 3, 4)] * 3), several(*[(2, 3, 6)] * 3, seed=5)
    scores = AttentionScores(heads=2)(student[:2], teacher[:2])
    attention = AttentionRelations(heads=2)(student, teacher)
    own = SelfRelations(heads=2)(student, teacher)
    for n in range(2):
        pairs = {(a, b): [slow_relation(side[a][n], side[b][n], 2) for side in (student, teacher)] for a, b in PAIRS}
        assert float(scores[n]) == pytest.approx(((pairs[0, 1][0] - pairs[0, 1][1]) ** 2).mean())
        losses = {pair: slow_kl(*two) for pair, two in pairs.items()}
        assert float(attention[n]) == pytest.approx(losses[0, 1] + losses[2, 2])
        assert float(own[n]) == pytest.approx(losses[0, 0] + losses[1, 1] + losses[2, 2])
        # Planted: the student first; the other relations; the other set of heads.
        assert float(attention[n]) != pytest.approx(sum(slow_kl(*pairs[p][::-1]) for p in ((0, 1), (2, 2))), rel=1e-3)
        assert float(attention[n]) != pytest.approx(float(own[n]), rel=1e-3)
    assert not torch.allclose(attention, AttentionRelations(heads=1)(student, teacher), rtol=1e-3)


PAIRS = [(0, 1), (2, 2), (0, 0), (1, 1)]


def test_relations_do_not_see_a_rotation_within_a_head() -> None:
    student, teacher = several(*[(2, 5, 6)] * 3), several(*[(2, 5, 4)] * 3, seed=5)
    rotation = torch.linalg.qr(several((3, 3))[0]).Q
    blocks = torch.block_diag(rotation, rotation)
    for objective in (AttentionRelations(heads=2), SelfRelations(heads=2)):
        loss = objective(student, teacher)
        assert torch.allclose(objective(tuple(tap @ blocks for tap in student), teacher), loss)
        across = torch.linalg.qr(several((6, 6))[0]).Q
        assert not torch.allclose(objective(tuple(tap @ across for tap in student), teacher), loss, rtol=1e-3)


def test_one_tap_of_queries_keys_and_values_is_three() -> None:
    student, teacher = several(*[(2, 5, 6)] * 3), several(*[(2, 5, 4)] * 3, seed=5)
    for objective in (AttentionRelations(heads=2), SelfRelations(heads=2)):
        assert torch.allclose(objective(torch.cat(student, 2), teacher), objective(student, teacher))
    scores = AttentionScores(heads=2)
    assert torch.allclose(scores(torch.cat(student, 2), teacher[:2]), scores(student[:2], teacher[:2]))
    other = torch.cat(student[::-1], 2)
    assert not torch.allclose(scores(other, teacher[:2]), scores(student[:2], teacher[:2]))


def test_padding_does_not_count() -> None:
    """Each example alone, cut to its words, gives the same."""
    student, teacher = several(*[(4, 5, 4)] * 3), several(*[(4, 5, 8)] * 3, seed=5)
    for kind in (AttentionRelations, SelfRelations):
        loss = kind(heads=2, padding=0)(student, (*teacher, WORDS))
        alone = []
        for n, row in enumerate(WORDS):
            sides = [tuple(tap[n : n + 1, row != 0] for tap in side) for side in (student, teacher)]
            alone.append(float(kind(heads=2)(*sides)))
        assert loss.tolist() == pytest.approx(alone)
        assert kind(heads=2)(student, teacher).tolist() != pytest.approx(alone, rel=1e-3)
        fused = kind(heads=2, padding=0)(torch.cat(student, 2), (torch.cat(teacher, 2), WORDS))
        assert torch.allclose(fused, loss)
    scores = AttentionScores(heads=2, padding=0)(student[:2], (*teacher[:2], WORDS))
    for n, row in enumerate(WORDS):
        sides = [tuple(tap[n : n + 1, row != 0] for tap in side[:2]) for side in (student, teacher)]
        share = float((row != 0).double().mean()) ** 2
        assert float(scores[n]) == pytest.approx(share * float(AttentionScores(heads=2)(*sides)))


def test_tinyberts_hidden_loss_is_a_hint_through_a_linear_bridge() -> None:
    student, teacher = several((2, 5, 6), (2, 5, 4))
    bridge = WidthBridge().build(student.shape, teacher.shape).double()
    mapped = torch.stack([torch.stack([bridge.weight @ token + bridge.bias for token in one]) for one in student])
    assert torch.allclose(Hint()(bridge(student), teacher), ((mapped - teacher) ** 2).mean((1, 2)))


def test_taps_of_timms_vision_transformer_give_its_attention() -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model("test_vit", pretrained=False, img_size=32, patch_size=8).eval()
    attention = network.blocks[1].attn
    attention.fused_attn = False  # so that the probabilities exist to compare with
    where = Tap(path="blocks.1.attn.qkv"), Tap(path="blocks.1.attn.attn_drop", side="input")
    with torch.no_grad(), capture(network, where) as seen:
        network(torch.randn(3, 3, 32, 32))
    queries, keys, _ = seen[where[0]].chunk(3, 2)
    heads = attention.num_heads
    assert torch.allclose(relation(queries, keys, heads=heads).softmax(3), seen[where[1]], atol=1e-5)
    assert not torch.allclose(relation(keys, queries, heads=heads).softmax(3), seen[where[1]], atol=1e-3)


def test_taps_of_transformers_bert_give_its_attention() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=50, attn_implementation="eager", **sizes)
    torch.manual_seed(0)
    network = transformers.BertModel(config).eval()
    where = [Tap(path=f"encoder.layer.1.attention.self.{name}") for name in ("query", "key", "value")]
    where.append(Tap(path="embeddings.word_embeddings", side="input"))
    words = torch.randint(50, (3, 7))
    with torch.no_grad(), capture(network, where) as seen:
        out = network(words, output_attentions=True)
    queries, keys, values, numbers = (seen[tap] for tap in where)
    assert torch.equal(numbers, words)
    assert torch.allclose(relation(queries, keys, heads=4).softmax(3), out.attentions[1], atol=1e-5)
    assert not torch.allclose(relation(queries, keys, heads=2).softmax(3)[:, :1], out.attentions[1][:, :1], atol=1e-4)
    assert values.shape == (3, 7, 24)


BATCH_SHAPE = (4, 1, 8, 8)


def vision(dim: int, heads: int, *, fused: bool, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return transformer(image=8, patch=4, dim=dim, depth=2, heads=heads, fused=fused)


@pytest.mark.parametrize("fused", [False, True])
def test_taps_of_the_zoos_transformer_give_its_attention(fused: bool) -> None:
    network = vision(8, 2, fused=fused, seed=0).eval()
    names = ("qkv",) if fused else ("query", "key", "value")
    where = [Tap(path=f"blocks.1.attention.{name}") for name in names]
    mixed = Tap(path="blocks.1.attention.out", side="input")
    with torch.no_grad(), capture(network, [*where, mixed]) as seen:
        network(torch.randn(BATCH_SHAPE))
    queries, keys, values = seen[where[0]].chunk(3, 2) if fused else (seen[tap] for tap in where)
    weights = relation(queries, keys, heads=2).softmax(3)
    made, wrong = (
        (w @ values.unflatten(2, (2, 4)).transpose(1, 2)).transpose(1, 2).flatten(2) for w in (weights, weights.mT)
    )
    assert torch.allclose(made, seen[mixed], atol=1e-6)
    assert not torch.allclose(wrong, seen[mixed], atol=1e-3)


def one_edge(student: nn.Module, teacher: nn.Module, **edge: Any) -> tuple[Flow, Any]:
    from lessen.core import ArrayExamples

    batch = ArrayExamples(torch.randn(BATCH_SHAPE), torch.tensor([0, 1, 2, 3])).fetch(torch.arange(4))
    nodes = [Network(name="t", module=teacher, learns=False), Network(name="s", module=student, learns=True)]
    graph = Graph(nodes=nodes, edges=[Edge(source="t", target="s", **edge)])
    flow = Flow(Stage(name="stage", graph=graph, epochs=1), batch, task=TaskFacts(examples=40, classes=10))
    flow.set_mode(training=True)
    return flow, batch


def test_a_student_with_other_heads_and_layers_apart_learns_from_a_teacher_with_one() -> None:
    student, teacher = vision(8, 2, fused=False, seed=0), vision(12, 3, fused=True, seed=1)
    prefix = "blocks.1.attention."
    three = taps(*(f"{prefix}{name}" for name in ("query", "key", "value")))
    for objective in (SelfRelations(heads=4), AttentionRelations(heads=2)):
        flow, batch = one_edge(student, teacher, objective=objective, target_tap=three, source_tap=f"{prefix}qkv")
        student.zero_grad()
        flow(batch, 0.0).total.backward()
        gradient = student.blocks[1].attention.value.weight.grad  # type: ignore[union-attr, index]
        assert gradient is not None
        assert float(gradient.abs().max()) > 0
        flow.close()
    with pytest.raises(ShapeError, match="3 heads"):
        one_edge(student, teacher, objective=SelfRelations(heads=3), target_tap=three, source_tap=f"{prefix}qkv")


def test_a_flow_prepares_then_teaches_and_asks_no_gradient_of_what_is_frozen() -> None:
    student, teacher = vision(8, 2, fused=False, seed=0), vision(12, 3, fused=True, seed=1)
    two = taps("blocks.0", "blocks.1")
    objective = MultiHeadGraph(heads=2, prepare=0.5)
    flow, batch = one_edge(student, teacher, objective=objective, target_tap=two, source_tap=two, bridge=WidthBridge())
    (module,) = [part for name, part in flow.owners["s"].parts.items() if name.startswith("objective")]
    assert not flow.uses_all(batch)

    def moved(progress: float) -> tuple[bool, bool]:
        flow.zero_grad()
        flow(batch, progress).total.backward()
        return tuple(  # type: ignore[return-value]
            any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in part.parameters())
            for part in (student, module)
        )

    assert moved(0.0) == (False, True)
    assert moved(0.6) == (True, False)
    flow.close()
