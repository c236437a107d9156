"""Contrast with a memory: the laws, naive loops with a mistake that each finds, what the memory keeps, and resuming."""

import math
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Data, ObjectiveInput, TaskFacts
from lessen.core.errors import DataError, LessenError, SettingError, ShapeError
from lessen.engine import run
from lessen.engine.training import Training
from lessen.graph import Edge, Fit, Flow, Graph, Network, Stage
from lessen.knowledge import ContrastiveRepresentation, HolisticKnowledge
from lessen.knowledge.examples.contrastive_representation import ContrastiveRepresentationLoss
from lessen.knowledge.examples.contrasts import Scores, noise_contrast
from lessen.knowledge.examples.holistic_knowledge import HolisticKnowledgeLoss, neighbour_graph
from lessen.knowledge.examples.memory import Memory
from lessen.schemes import Offline, at, taps
from lessen.testing import ObjectiveCase, ObjectiveLaws, learned
from lessen.testing.largest import LargestTensor
from lessen.testing.tasks import clusters, perceptron

TASK = TaskFacts(examples=40, classes=3)
INDEX = torch.tensor([7, 0, 39, 21, 8])
LABELS = torch.tensor([2, 0, 1, 0, 2])


class TestContrastiveRepresentation(ObjectiveLaws):
    wrong = (
        (torch.zeros(5, 7), (torch.zeros(5, 4), LABELS, INDEX)),
        (torch.zeros(5, 6), (torch.zeros(5, 4, 1), LABELS, INDEX)),
        (torch.zeros(4, 6), (torch.zeros(5, 4), LABELS, INDEX)),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        """The lowest loss is not known: it is not zero at equality."""
        student, teacher, same = torch.randn(5, 6), torch.randn(5, 4), torch.randn(5, 4)
        at = {"task": TASK, "floor": None}
        given = (teacher, LABELS, INDEX)
        yield learned(ContrastiveRepresentation(width=3), student, given, equal=(student, given), **at)
        yield learned(ContrastiveRepresentation(width=3), same, given, **at)
        free = ContrastiveRepresentation(width=3, temperature=0.5, negatives=2, by_label=False)
        maps, given = torch.randn(5, 2, 2, 2), (teacher, INDEX)
        yield learned(free, maps, given, equal=(maps, given), **at)


class TestHolisticKnowledge(ObjectiveLaws):
    wrong = (
        ((torch.zeros(5, 7), torch.zeros(5, 3)), ((torch.zeros(5, 4), torch.zeros(5, 3)), LABELS, INDEX)),
        ((torch.zeros(5, 4), torch.zeros(4, 3)), ((torch.zeros(5, 4), torch.zeros(5, 3)), LABELS, INDEX)),
        ((torch.zeros(5, 4), torch.zeros(5)), ((torch.zeros(5, 4), torch.zeros(5, 3)), LABELS, INDEX)),
        (torch.zeros(5, 6), (torch.zeros(5, 4), LABELS, INDEX)),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = (torch.randn(5, 4), torch.randn(5, 3)), (torch.randn(5, 4), torch.randn(5, 3))
        made_by = HolisticKnowledge(width=3, neighbours=3, temperature=0.5)
        yield learned(made_by, student, (teacher, LABELS, INDEX), task=TASK, floor=None)
        free = HolisticKnowledge(width=3, neighbours=9, hops=2, negatives=3, graph_share=1.0, by_label=False)
        wider, given = (torch.randn(5, 6, 2), torch.randn(5, 3)), (teacher, INDEX)
        yield learned(free, wider, given, equal=(wider, given), task=TASK, floor=None)


# The formulas


def contrast(examples: int = 40, **settings: Any) -> ContrastiveRepresentationLoss:
    torch.manual_seed(3)
    made_by = ContrastiveRepresentation(**{"width": 3} | settings)
    made = made_by.objective_for((5, 6), (5, 4), TaskFacts(examples=examples, classes=3)).double()
    assert isinstance(made, ContrastiveRepresentationLoss)
    return made


def batch(seed: int = 0) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(5, width, generator=drawn, dtype=torch.float64) for width in (6, 4))
    return student, (teacher, LABELS, INDEX)


def embed(features: Tensor, linear: nn.Linear) -> Tensor:
    """One example at a time, to unit length."""
    return torch.stack([(y := linear.weight @ x + linear.bias) / y.norm() for x in features])


def naive(
    made: ContrastiveRepresentationLoss,
    student: Tensor,
    teacher: Tensor,
    *,
    own_bank: bool = False,
    all_classes: bool = False,
    share: float = 1.0,
    directions: int = 2,
) -> list[float]:
    """The loss by loops over examples and negatives, as the paper writes it: h = p / (p + K / M), p = e / Z."""
    temperature, memory = made.settings.temperature, made.memory
    drawn = memory.eval().draw(INDEX, LABELS)
    sides = [
        (embed(student, made.student.linear), memory.student if own_bank else memory.teacher),
        (embed(teacher, made.teacher.linear), memory.teacher if own_bank else memory.student),
    ]
    loss = [0.0] * len(student)
    for anchors, bank in sides[:directions]:
        examples, count = len(bank), len(drawn.others)
        noise = share * count / examples
        positive, negative = [], []
        for i, anchor in enumerate(anchors):
            e = [math.exp(anchor.dot(row).item() / temperature) for row in bank]
            positive.append(e[INDEX[i]])
            known = dict(zip(INDEX.tolist(), LABELS.tolist(), strict=True))
            kept = [j for j in drawn.others.tolist() if all_classes or known.get(j) != int(LABELS[i])]
            negative.append([e[j] for j in kept])
        pairs = len(student) + sum(map(len, negative))
        constant = (sum(positive) + sum(map(sum, negative))) / pairs * examples
        for i, others in enumerate(negative):
            h = [each / constant / (each / constant + noise) for each in (positive[i], *others)]
            loss[i] -= math.log(h[0]) + count * sum(math.log(1 - each) for each in h[1:]) / len(others)
    return loss


def test_contrast_is_a_loop_over_negatives() -> None:
    made = contrast(examples=44).eval()
    student, teacher = batch()
    # Evenly spaced: 0, 4, 8, ... Examples 0 and 8 are in the batch, and must be left out by their classes.
    assert {0, 8} < set(made.memory.draw(INDEX, LABELS).others.tolist())
    got = made(student, teacher).tolist()
    assert got == pytest.approx(naive(made, student, teacher[0]), rel=1e-9)
    for mistake in ({"own_bank": True}, {"all_classes": True}, {"share": 0.5}, {"directions": 1}):
        assert got != pytest.approx(naive(made, student, teacher[0], **mistake), rel=1e-3), mistake


def test_contrast_is_not_zero_at_equality() -> None:
    torch.manual_seed(0)
    made = ContrastiveRepresentation(width=3).objective_for((5, 4), (5, 4), TASK).double()
    made.student = made.teacher  # one embedding of one set of features, which the memory knows exactly
    features, everybody = torch.randn(40, 4, dtype=torch.float64), torch.arange(40)
    labels, embedded = everybody % 3, made.teacher(features)
    made.memory.train().remember(everybody, labels, embedded, embedded, momentum=0.0)
    assert torch.allclose(made.memory.student, made.memory.teacher)
    assert torch.allclose(made.memory.student, embedded)
    loss = made.eval()(features[INDEX], (features[INDEX], labels[INDEX], INDEX))
    assert bool((loss > 0.1).all())


def test_the_constant_is_set_once_by_the_first_training_batch() -> None:
    made = contrast()
    made.eval()(*batch())
    assert not bool(made.started)
    made.train()(*batch(1))
    first = made.log_constant.clone()
    assert bool(made.started)
    made(*batch(2))
    assert torch.equal(made.log_constant, first)
    before = made.eval()(*batch(1))
    with torch.no_grad():
        made.log_constant += 1
    assert not torch.allclose(made(*batch(1)), before)


def test_the_constant_is_the_mean_over_the_batch() -> None:
    made = contrast()
    student, teacher = batch(1)
    bank = made.memory.teacher.clone()
    torch.manual_seed(11)
    made.train()(student, teacher)
    torch.manual_seed(11)
    drawn = made.memory.draw(INDEX, LABELS)
    e = [
        math.exp(anchor.dot(bank[j]).item() / 0.07)
        for i, anchor in enumerate(embed(student, made.student.linear))
        for j in [int(INDEX[i]), *drawn.others[drawn.counts[i]].tolist()]
    ]
    assert made.log_constant[0].item() == pytest.approx(math.log(sum(e) / len(e)), rel=1e-9)
    assert made.log_constant[0].item() != pytest.approx(math.log(sum(e) / 5), rel=1e-3)


# The memory


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_memory_moves_by_its_momentum_and_stays_on_the_sphere(momentum: float) -> None:
    made = contrast(momentum=momentum)
    student, teacher = batch()
    before = made.memory.student.clone()
    made.eval()(student, teacher)
    assert torch.equal(made.memory.student, before)  # eval mode writes nothing
    assert bool((made.memory.labels == -1).all())
    made.train()(student, teacher).sum().backward()  # what is written must not disturb the backward pass
    new = embed(student, made.student.linear).detach()
    mixed = momentum * before[INDEX] + (1 - momentum) * new
    assert torch.allclose(made.memory.student[INDEX], mixed / mixed.norm(dim=1, keepdim=True))
    if momentum:
        assert not torch.allclose(made.memory.student[INDEX], mixed, rtol=1e-3)  # without the scaling
    assert torch.equal(made.memory.labels[INDEX], LABELS)
    others = torch.ones(40, dtype=torch.bool).index_fill(0, INDEX, value=False)
    assert torch.equal(made.memory.student[others], before[others])
    assert not made.memory.student.requires_grad


def test_the_gradient_is_of_the_memory_before_it_is_written() -> None:
    made = contrast()
    student, teacher = batch()
    student.requires_grad_()
    made.started.fill_(True)
    torch.manual_seed(5)
    (got,) = torch.autograd.grad(made.train()(student, teacher).sum(), student)
    fresh = contrast()
    fresh.started.fill_(True)
    torch.manual_seed(5)
    drawn = fresh.memory.train().draw(INDEX, LABELS)
    for momentum, same in ((None, True), (0.5, False)):
        anchors, others = embed(student, fresh.student.linear), embed(teacher[0], fresh.teacher.linear)
        if momentum is not None:  # the mistake: written first
            fresh.memory.remember(INDEX, LABELS, anchors, others, momentum=momentum)
        scores, _ = fresh.memory.scores(anchors, others, drawn)
        loss = noise_contrast(scores.over(0.07), fresh.log_constant[0])
        (expected,) = torch.autograd.grad(loss.sum(), student)
        assert torch.allclose(got, expected) == same


def test_the_negatives_that_are_drawn_estimate_the_mean_over_all_of_other_classes() -> None:
    torch.manual_seed(0)
    memory = Memory(40, 3, negatives=10, by_label=True).double().train()
    memory.labels.copy_(torch.arange(40) % 3)
    anchors = F.normalize(torch.randn(5, 3, dtype=torch.float64))
    labels, none = INDEX % 3, torch.zeros((), dtype=torch.float64)
    losses = []
    for _ in range(4000):
        drawn = memory.draw(INDEX, labels)
        assert len(set(drawn.others.tolist())) == 10
        assert torch.equal(drawn.counts, (drawn.others % 3) != labels[:, None])
        losses.append(noise_contrast(memory.scores(anchors, anchors, drawn)[0].over(0.3), none))
    odds = anchors @ memory.teacher.T / 0.3 - math.log(10)
    refuse, other = F.softplus(odds), (torch.arange(40) % 3) != labels[:, None]
    accept = F.softplus(-odds[torch.arange(5), INDEX])
    expected = accept + 10 * (refuse * other).sum(1) / other.sum(1)
    assert torch.allclose(torch.stack(losses).mean(0), expected, rtol=0.01)
    assert not torch.allclose(accept + 10 * refuse.mean(1), expected, rtol=0.01)  # over all classes


def test_without_labels_only_the_example_itself_is_left_out() -> None:
    memory = Memory(40, 3, negatives=10, by_label=False).train()
    for _ in range(20):
        drawn = memory.draw(INDEX, None)
        assert torch.equal(drawn.counts, drawn.others != INDEX[:, None])
    assert bool((memory.eval().draw(INDEX, None).others == torch.arange(0, 40, 4)).all())


def test_negatives_come_from_the_seed_and_in_eval_mode_from_nothing() -> None:
    memory = Memory(40, 3, negatives=10, by_label=True).train()
    state = torch.get_rng_state()
    first, second = (memory.draw(INDEX, LABELS).others for _ in range(2))
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(memory.draw(INDEX, LABELS).others, first)
    state = torch.get_rng_state()
    assert torch.equal(memory.eval().draw(INDEX, LABELS).others, memory.draw(INDEX, LABELS).others)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_step_makes_nothing_of_examples_times_negatives_times_width() -> None:
    made = contrast(examples=400, width=32).float().train()
    student, (teacher, labels, index) = batch()
    with LargestTensor() as largest:
        made(student.float().requires_grad_(), (teacher.float(), labels, index)).sum().backward()
    assert largest.numbers == 400 * 32  # the memory itself
    assert largest.numbers < 5 * 100 * 32  # what gathering a hundred rows for each of five examples makes


def test_where_all_are_of_one_class_there_are_no_negatives() -> None:
    made = contrast().train()
    student, (teacher, _, index) = batch()
    made.memory.labels.zero_()
    loss = made(student.requires_grad_(), (teacher, torch.zeros(5, dtype=torch.long), index))
    loss.sum().backward()
    assert bool(torch.isfinite(loss).all())
    assert student.grad is not None
    assert bool(torch.isfinite(student.grad).all())


def test_how_many_negatives() -> None:
    def count(examples: int, negatives: int | None = None) -> int:
        made = ContrastiveRepresentation(width=1, negatives=negatives)
        return made.objective_for((5, 1), (5, 1), TaskFacts(examples=examples)).memory.negatives

    assert count(100_000) == 16384
    assert count(50_000) == 12_500
    assert count(64, 16) == 16
    with pytest.raises(SettingError, match=r"17 are more than a quarter of the 64 .* Use 16 or fewer"):
        count(64, 17)
    with pytest.raises(DataError, match="needs 4 training examples"):
        count(3)


def test_mixed_labels_are_refused_with_advice() -> None:
    student, (teacher, labels, index) = batch()
    mixed = F.one_hot(labels, 3).double()
    for wrong in (mixed, labels.double(), labels[:, None]):
        with pytest.raises(DataError, match="by_label=False"):
            contrast()(student, (teacher, wrong, index))
    free = contrast(by_label=False)
    assert free.needs == (ObjectiveInput.INDEX,)
    assert bool(torch.isfinite(free(student, (teacher, index))).all())


def test_autocast_does_not_reach_inside() -> None:
    student, (teacher, labels, index) = batch()
    made = contrast().float().eval()
    expected = made(student.float(), (teacher.float(), labels, index))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(made(student.float(), (teacher.float(), labels, index)), expected)
        assert made.student.linear(student.float()).dtype == torch.bfloat16  # what it does to a plain layer


@pytest.mark.parametrize("knows", [True, False])
def test_examples_are_found_in_the_memory_of_the_other_network(knows: bool) -> None:
    """A student whose features hold the teacher's, mixed with noise, is led to them; one of fresh noise is not."""
    torch.manual_seed(0)
    teacher = torch.randn(64, 4)
    mixed = torch.cat([torch.randn(64, 4), teacher], dim=1) @ torch.randn(8, 8)
    made = ContrastiveRepresentation(width=4, by_label=False).objective_for((16, 8), (16, 4), TaskFacts(examples=64))
    optimizer = torch.optim.Adam(made.parameters(), lr=0.02)

    def student() -> Tensor:
        return mixed if knows else torch.randn(64, 8)

    @torch.no_grad()
    def found() -> float:
        """How often the nearest vector in the teacher's memory is that of the same example."""
        nearest = (made.student(student()) @ made.memory.teacher.T).argmax(1)
        return (nearest == torch.arange(64)).float().mean().item()

    assert found() < 0.1
    for _ in range(60):
        for index in torch.randperm(64).split(16):
            optimizer.zero_grad()
            made(student()[index], (teacher[index], index)).mean().backward()
            optimizer.step()
    assert (found() > 0.5) == knows


# Holistic


def test_the_graph_joins_the_nearest() -> None:
    logits = torch.randn(7, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    p = logits.softmax(1)
    joined = [[0.0] * 7 for _ in range(7)]
    for i in range(7):
        alike = [float(p[i] @ p[j] / p[i].norm() / p[j].norm()) if i != j else 2.0 for j in range(7)]
        for j in sorted(range(7), key=lambda j: -alike[j])[:3]:
            joined[i][j] = joined[j][i] = 1.0
    degree = [sum(row) for row in joined]
    expected = [[joined[i][j] / math.sqrt(degree[i] * degree[j]) for j in range(7)] for i in range(7)]
    graph = neighbour_graph(logits, neighbours=3)
    assert torch.allclose(graph, torch.tensor(expected, dtype=torch.float64))
    assert not torch.allclose(graph, neighbour_graph(logits, neighbours=4))
    # Nearness is of probabilities: a common offset of an example's logits does not matter.
    assert torch.allclose(neighbour_graph(logits + torch.arange(7.0)[:, None], neighbours=3), graph)


@pytest.mark.parametrize("own_bank", [False, True])
def test_holistic_knowledge_is_four_cross_entropies(own_bank: bool) -> None:
    torch.manual_seed(3)
    settings = HolisticKnowledge(width=3, neighbours=2, hops=2, temperature=0.3, negatives=6, graph_share=0.4)
    made = settings.objective_for(((5, 6), (5, 3)), ((5, 4), (5, 3)), TASK).double().eval()
    assert isinstance(made, HolisticKnowledgeLoss)
    student, (teacher, labels, index) = batch()
    logits = torch.randn(2, 5, 3, dtype=torch.float64)
    got = made((student, logits[0]), ((teacher, logits[1]), labels, index))

    drawn = made.memory.draw(index, labels)
    raw = embed(student, made.student.linear), embed(teacher, made.teacher.linear)
    banks = made.memory.teacher, made.memory.student
    in_graph = []
    for side, logit, network in zip(raw, logits, (made.student_graph, made.teacher_graph), strict=True):
        graph = neighbour_graph(logit, neighbours=2)
        in_graph.append(embed(torch.cat([side, graph @ side, graph @ graph @ side], dim=1), network.linear))
    expected = torch.zeros(5, dtype=torch.float64)
    for this in (0, 1):
        for number in range(5):
            kept = banks[this][index[number]]
            kept_others = drawn.others[drawn.counts[number]]
            others = banks[1 - this if own_bank else this][kept_others]
            extra = math.log(6 / len(kept_others))
            mixed = 0.4 * in_graph[1 - this][number] + 0.6 * kept
            for anchor, positive in ((raw[this], kept), (in_graph[this], mixed / mixed.norm())):
                against = torch.stack([anchor[number] @ positive, *(others @ anchor[number] + 0.3 * extra)]) / 0.3
                expected[number] += F.cross_entropy(against[None], torch.tensor([0]))
    # With negatives of the own memory, as released code takes them, it is another number.
    assert torch.allclose(got, expected) != own_bank


# In a graph, and through a stop


def flow_of(objective: Any, where: Any) -> Flow:
    nodes = [
        Network(name="t", module=perceptron(12, seed=2), learns=False),
        Network(name="s", module=perceptron(8, seed=1), learns=True),
    ]
    edge = Edge(source="t", target="s", objective=objective, source_tap=where, target_tap=where)
    stage = Stage(name="s", graph=Graph(nodes=nodes, edges=[edge]), epochs=1)
    made = Flow(stage, clusters().train.fetch(torch.arange(4)), task=clusters().facts)
    made.set_mode(training=True)
    return made


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (ContrastiveRepresentation(width=4), "layer2"),
        (ContrastiveRepresentation(width=4, by_label=False), "layer1"),
        (HolisticKnowledge(width=4), taps("layer2", "")),
    ],
    ids=str,
)
def test_its_parts_learn_on_an_edge_and_a_dry_batch_is_not_remembered(settings: Any, where: Any) -> None:
    flow = flow_of(settings, where)
    (made,) = [part for name, part in flow.owners["s"].parts.items() if name.startswith("objective")]
    assert made.memory.student.shape == (80, 4)
    before = made.memory.student.clone()
    fresh = Memory(80, 4, negatives=1, by_label=settings.by_label)
    assert torch.equal(made.memory.labels, fresh.labels)
    batch = clusters().train.fetch(torch.arange(10, 26))
    flow(batch, 0.0).total.backward()
    assert all(parameter.grad is not None and bool(parameter.grad.any()) for parameter in made.parameters())
    changed = (made.memory.student != before).any(1)
    assert torch.equal(changed.nonzero().flatten(), batch.index)


class Forgetful(ContrastiveRepresentation):
    """The same with a memory that stands in no checkpoint."""

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        made = super().objective_for(student_shape, teacher_shape, task)
        made.memory._non_persistent_buffers_set |= {"student", "teacher"}
        return made


@pytest.mark.parametrize(
    ("settings", "where", "same"),
    [
        (ContrastiveRepresentation(width=4), "layer2", True),
        (HolisticKnowledge(width=4), taps("layer2", ""), True),
        (Forgetful(width=4), "layer2", False),
    ],
    ids=["contrastive", "holistic", "forgetful"],
)
def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    settings: Any, where: Any, same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not same:
        monkeypatch.setattr(Training, "compare", lambda self, before: None)  # this would find it earlier

    def train(folder: str, *, stop: bool) -> dict[str, Tensor]:
        student, teacher = perceptron(8, seed=1), perceptron(12, seed=2)
        stages = Offline(knowledge=(at(where, settings),), epochs=3, fit=Fit(batch=20, keep_best=False)).stages(
            {"student": student, "teacher": teacher}
        )
        if stop:
            with pytest.raises(LessenError, match="stop here"):
                run(stages, failing(clusters(), after=9), folder=tmp_path / folder, progress=False, device="cpu")
        data = failing(clusters(), after=10**9)
        run(stages, data, folder=tmp_path / folder, resume=stop, progress=False, device="cpu")
        return student.state_dict()

    whole, again = train("whole", stop=False), train("again", stop=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole) == same


def failing(data: Data, *, after: int) -> Data:
    """Data whose batches can be fetched so many times."""
    left = [after]

    class Train:
        def __len__(self) -> int:
            return len(data.train)

        def fetch(self, index: Tensor) -> Any:
            left[0] -= len(index) == 20
            if left[0] < 0:
                raise LessenError("stop here")
            return data.train.fetch(index)

    return Data(train=Train(), validation=data.validation, test=data.test, classes=data.classes, name=data.name)


def remember_a_part(address: str, folder: str, rank: int) -> None:
    """One of two processes: it sees every second example of a batch."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    made = contrast().train()
    student, (teacher, labels, index) = batch()
    part = slice(rank, 4, 2)
    made(student[part], (teacher[part], labels[part], index[part]))
    torch.save(made.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_keep_one_memory(tmp_path: Path) -> None:
    address = f"file://{tmp_path}/meet"
    command = [sys.executable, __file__, address, str(tmp_path)]
    processes = [subprocess.Popen([*command, str(rank)]) for rank in (0, 1)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    alone = contrast().train()
    student, (teacher, labels, index) = batch()
    alone(student[:4], (teacher[:4], labels[:4], index[:4]))
    whole = alone.state_dict()
    for name in ("memory.student", "memory.teacher", "memory.labels"):
        assert torch.allclose(first[name], whole[name]), name
    half = contrast().train()
    half(student[0:4:2], (teacher[0:4:2], labels[0:4:2], index[0:4:2]))
    assert not torch.allclose(half.state_dict()["memory.student"], whole["memory.student"])


def test_settings_are_checked() -> None:
    for make in (
        lambda: ContrastiveRepresentation(temperature=0.0),
        lambda: ContrastiveRepresentation(momentum=1.0),
        lambda: ContrastiveRepresentation(negatives=0),
        lambda: HolisticKnowledge(graph_share=1.5),
        lambda: HolisticKnowledge(hops=0),
    ):
        with pytest.raises(SettingError):
            make()
    with pytest.raises(ShapeError, match="two taps"):
        HolisticKnowledge().objective_for((5, 6), (5, 4), TASK)
    with pytest.raises(ShapeError, match="features"):
        ContrastiveRepresentation().objective_for(((5, 6), (5, 3)), (5, 4), TASK)


if __name__ == "__main__":
    remember_a_part(sys.argv[1], sys.argv[2], int(sys.argv[3]))


def test_the_sum_over_negatives_is_that_of_softplus() -> None:
    """Against PyTorch's own in double precision, far out on both sides, in pieces that do not come out even."""
    torch.manual_seed(0)
    anchors_ND, bank_MD = 4 * torch.randn(7, 6, dtype=torch.float64), 4 * torch.randn(30_000, 6, dtype=torch.float64)
    others_K = torch.randperm(30_000)[:20_003]
    counts_NK = torch.rand(7, 20_003) > 0.3
    x_NK = 0.5 * anchors_ND @ bank_MD[others_K].T
    assert x_NK.max() > 50, "far out, or this says little"
    share_N = 20_003 / counts_NK.sum(1).double()
    wanted = math.log(2) + share_N * (F.softplus(x_NK, threshold=60) * counts_NK).sum(1)
    for dtype, close in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        scores = Scores(
            positive=torch.zeros(7, dtype=dtype),
            anchors=anchors_ND.to(dtype),
            bank=bank_MD.to(dtype),
            others=others_K,
            counts=counts_NK,
        ).over(2.0)
        none = torch.tensor(-math.log(20_003), dtype=dtype)  # the noise is then 1
        assert torch.allclose(noise_contrast(scores, none).double(), wanted, rtol=close)
        all_count = replace(scores, counts=torch.ones_like(counts_NK))
        assert not torch.allclose(noise_contrast(all_count, none).double(), wanted, rtol=1e-6)
    few = replace(scores, bank=bank_MD, others=others_K[:50], counts=counts_NK[:, :50])
    given = (anchors_ND.clone() / 10).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda anchors, constant: noise_contrast(replace(few, anchors=anchors, positive=anchors[:, 0]), constant), given
    )
