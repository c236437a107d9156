"""Figures agree with scikit-learn's; guesses are right for every kind of labels and outputs; nonsense is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn import metrics as oracle
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.core.task import Meaning, Task, rank
from lessen.data import load
from lessen.engine import run
from lessen.measure import evaluate
from lessen.measure.task import guessed
from lessen.schemes import supervised
from lessen.tasks import (
    Binary,
    Dense,
    Judged,
    Language,
    MultiLabel,
    Quantities,
    Retrieval,
    SingleLabel,
    Unlabelled,
    closeness_figures,
    guess,
    joined,
    judged,
    named,
    task_figures,
)

N = 60


def figures(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, float]:
    return {figure.name: figure.estimate.value for figure in task_figures(task, task.rows(outputs, labels))}


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


CASES = {
    "single": (SingleLabel(), torch.randn(N, 4), torch.randint(4, (N,))),
    "one-hot": (SingleLabel(), torch.randn(N, 4), torch.eye(4)[torch.randint(4, (N,))]),
    "several": (MultiLabel(), torch.randn(N, 4), (torch.rand(N, 4) > 0.5).float()),
    "one logit": (Binary(), torch.randn(N, 1), torch.randint(2, (N,))),
    "binary maps": (Binary(), torch.randn(N, 1, 3, 3), torch.randint(2, (N, 3, 3))),
    "maps": (Dense(), torch.randn(N, 3, 4, 4), torch.randint(3, (N, 4, 4))),
    "tokens": (Dense(class_axis=-1, tokens=True), torch.randn(N, 5, 3), torch.randint(3, (N, 5))),
    "numbers": (Quantities(), torch.randn(N, 1), torch.randn(N)),
    "many numbers": (Quantities(), torch.randn(N, 3), torch.randn(N, 3)),
    "language": (Language(), torch.randn(N, 5, 7), torch.randint(7, (N, 5))),
    "retrieval": (Retrieval(), torch.randn(N, 8), torch.randint(5, (N,))),
}


@pytest.mark.parametrize("name", CASES)
class TestEveryTask:
    """What holds for all tasks."""

    def test_rows_in_parts_are_rows_of_all(self, name: str) -> None:
        task, outputs, labels = CASES[name]
        parts = [task.rows(outputs[i : i + 7], labels[i : i + 7]) for i in range(0, N, 7)]
        whole = task.rows(outputs, labels)
        for metric in task.metrics:
            value = metric.value(whole)
            assert metric.value(joined(parts)) == pytest.approx(value, nan_ok=True)
            estimate = metric.estimate(whole)
            assert estimate.value == pytest.approx(value, nan_ok=True)
            if estimate.low is not None and estimate.high is not None:
                assert estimate.low <= estimate.value <= estimate.high

    def test_a_change_is_the_difference_and_nothing_against_itself(self, name: str) -> None:
        task, outputs, labels = CASES[name]
        other = outputs + torch.randn_like(outputs)
        rows, before = task.rows(outputs, labels), task.rows(other, labels)
        metric = task.metrics[0]
        change = metric.change(rows, before)
        assert change.value == pytest.approx(metric.value(rows) - metric.value(before), abs=1e-6)
        assert metric.change(rows, rows).value == 0
        assert metric.loss(1.0, 1.0) == 0

    def test_the_loss_is_one_number_an_example_and_gradient_lowers_it(self, name: str) -> None:
        task, outputs, labels = CASES[name]
        if name == "retrieval":
            with pytest.raises(DataError, match="labels=0"):
                task.loss(outputs, labels)
            return
        outputs = outputs.clone().requires_grad_()
        loss = task.loss(outputs, labels)
        assert loss.shape == (N,)
        (gradient,) = torch.autograd.grad(loss.sum(), outputs)
        with torch.no_grad():
            assert float(task.loss(outputs - 0.01 * gradient, labels).sum()) < float(loss.sum())

    def test_better_outputs_rank_higher(self, name: str) -> None:
        task, outputs, labels = CASES[name]
        if name == "retrieval":
            better = F.one_hot(labels, 8) + 0.01 * outputs
        else:
            better = outputs.clone().requires_grad_()
            for _ in range(200):
                (gradient,) = torch.autograd.grad(task.loss(better, labels).sum(), better)
                better = (better - 0.5 * gradient).detach().requires_grad_()
        ranks = [rank(task, {m.name: m.value(task.rows(o.detach(), labels)) for m in task.metrics})
                 for o in (outputs, better)]  # fmt: skip
        assert ranks[1] > ranks[0]

    def test_outputs_of_another_shape_are_refused(self, name: str) -> None:
        task, outputs, labels = CASES[name]
        with pytest.raises((ShapeError, DataError)) as caught:
            task.rows(torch.randn(N, 9, 2, 2, 2), labels)
        assert "(" in str(caught.value)
        del outputs


def test_multi_label_figures_are_sklearns() -> None:
    task, outputs, labels = CASES["several"]
    found, said = figures(task, outputs, labels), (outputs > 0).float()
    assert found["mean_average_precision"] == pytest.approx(
        100 * oracle.average_precision_score(labels, outputs, average="macro")
    )
    assert found["f1"] == pytest.approx(100 * oracle.f1_score(labels, said, average="macro"))
    assert found["f1_micro"] == pytest.approx(100 * oracle.f1_score(labels, said, average="micro"))
    assert found["exact_match"] == pytest.approx(100 * oracle.accuracy_score(labels, said))
    assert found["nll"] == pytest.approx(float(F.binary_cross_entropy_with_logits(outputs, labels)), rel=1e-5)


def test_average_precision_of_equal_scores_is_sklearns() -> None:
    scores, truth = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 2.0])[:, None], torch.tensor([1, 0, 1, 0, 0, 1])[:, None]
    found = figures(MultiLabel(), scores.repeat(1, 2), truth.repeat(1, 2).float())["mean_average_precision"]
    assert found == pytest.approx(100 * oracle.average_precision_score(truth[:, 0], scores[:, 0]))


def test_binary_figures_are_sklearns() -> None:
    task, outputs, labels = CASES["one logit"]
    found, said = figures(task, outputs, labels), (outputs[:, 0] > 0).long()
    assert found["accuracy"] == pytest.approx(100 * oracle.accuracy_score(labels, said))
    assert found["f1"] == pytest.approx(100 * oracle.f1_score(labels, said))
    assert found["iou"] == pytest.approx(100 * oracle.jaccard_score(labels, said))
    assert found["average_precision"] == pytest.approx(100 * oracle.average_precision_score(labels, outputs[:, 0]))


@pytest.mark.parametrize("name", ["maps", "tokens"])
def test_dense_figures_are_sklearns_and_ignored_positions_do_not_count(name: str) -> None:
    task, outputs, labels = CASES[name]
    labels = labels.clone()
    labels.view(-1)[::7] = -100
    said = outputs.argmax(task.class_axis)
    counts = labels >= 0
    found = figures(task, outputs, labels)
    truth, said = labels[counts], said[counts]
    assert found["accuracy"] == pytest.approx(100 * oracle.accuracy_score(truth, said))
    assert found["mean_iou"] == pytest.approx(100 * oracle.jaccard_score(truth, said, average="macro"))
    logits = outputs.movedim(task.class_axis, -1)[counts]
    assert found["nll"] == pytest.approx(float(F.cross_entropy(logits, truth)), rel=1e-4)


def test_numbers_are_sklearns() -> None:
    task, outputs, labels = CASES["many numbers"]
    found = figures(task, outputs, labels)
    assert found["rmse"] == pytest.approx(math.sqrt(oracle.mean_squared_error(labels, outputs)))
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(labels, outputs), rel=1e-6)
    assert found["r2"] == pytest.approx(oracle.r2_score(labels, outputs), rel=1e-6)


def test_perplexity_is_about_the_next_token() -> None:
    task, outputs, labels = CASES["language"]
    expected = F.cross_entropy(outputs[:, :-1].reshape(-1, 7), labels[:, 1:].reshape(-1)).exp()
    assert figures(task, outputs, labels)["perplexity"] == pytest.approx(float(expected), rel=1e-5)


def test_retrieval_by_hand() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [1.0, 0.9]])
    found = figures(Retrieval(), features, torch.tensor([0, 0, 1, 1, 2]))
    assert found["recall_at_1"] == 100  # the last has no other of its group and is not asked for
    assert found["retrieval_precision"] == 100


GUESSES: dict[str, tuple[tuple[int, ...], Tensor | None, str]] = {
    "class numbers": ((2, 10), torch.arange(40) % 10, "single_label"),
    "one-hot rows": ((2, 6), torch.eye(6)[torch.arange(40) % 6], "single_label"),
    "several labels": ((2, 6), (torch.rand(40, 6) > 0.5).float(), "multi_label"),
    "several labels as integers": ((2, 6), (torch.rand(40, 6) > 0.5).long(), "multi_label"),
    "one logit, floats": ((2, 1), (torch.rand(40) > 0.5).float(), "binary"),
    "one logit, integers": ((2,), (torch.rand(40) > 0.5).long(), "binary"),
    "one logit, a column": ((2, 1), (torch.rand(40, 1) > 0.5).float(), "binary"),
    "numbers": ((2, 1), torch.rand(40), "regression"),
    "counts": ((2, 1), torch.randint(50, (40,)), "regression"),
    "rows of numbers": ((2, 3), torch.randn(40, 3), "regression"),
    "maps": ((2, 3, 8, 8), torch.randint(3, (40, 8, 8)), "dense"),
    "maps, classes last": ((2, 8, 9, 3), torch.randint(3, (40, 8, 9)), "dense"),
    "maps of one class": ((2, 1, 8, 8), torch.randint(2, (40, 8, 8)), "binary"),
    "tokens": ((2, 12, 5), torch.randint(5, (40, 12)), "dense"),
    "nothing": ((2, 10), None, "none"),
}


@pytest.mark.parametrize("name", GUESSES)
def test_guesses_are_right_and_say_why(name: str) -> None:
    shape, labels, expected = GUESSES[name]
    found = guess(shape, labels)
    assert found.task.name == expected
    assert str(found).startswith(f"task: {expected} (")
    if labels is not None:
        found.task.check(torch.randn(len(labels), *shape[1:]), labels)


def test_labels_that_are_the_inputs_are_a_language_model() -> None:
    tokens = torch.randint(5, (8, 6))
    labels = tokens.clone()
    labels[:, :2] = -100
    assert guess((8, 6, 5), labels, inputs={"input_ids": tokens}).task == Language()
    assert guess((8, 6, 5), labels, inputs={"input_ids": tokens + 1}).task.name == "dense"


def test_labels_that_are_one_token_ahead_are_a_language_model_too() -> None:
    text = torch.randint(5, (8, 7))
    tokens, labels = text[:, :-1], text[:, 1:].clone()
    labels[:, :2] = -100
    found = guess((8, 6, 5), labels, inputs=tokens)
    assert found.task == Language(shift=False)
    assert "next token" in str(found)
    assert guess((8, 6, 5), labels + 1, inputs=tokens).task.name == "dense"
    assert guess((8, 6, 5), text[:, :-1].roll(1, 1), inputs=tokens).task.name == "dense"


def test_a_language_model_is_found_in_arrays_and_in_datasets() -> None:
    """Labels that are known without fetching are many, the inputs that are looked at few."""
    tokens = torch.randint(5, (80, 6))
    network = nn.Sequential(nn.Embedding(5, 8), nn.Linear(8, 5))
    for data in (load((tokens, tokens)), load([(row, row) for row in tokens])):
        assert guessed(data, network).task == Language()
        other = load((tokens, (tokens + 1) % 5))
        assert guessed(other, network).task.name == "dense"


def test_binary_maps_may_have_positions_that_do_not_count() -> None:
    labels = torch.randint(2, (20, 4, 4))
    labels[:, 0] = -100
    assert guess((2, 1, 4, 4), labels).task == Binary()
    outputs = torch.randn(20, 1, 4, 4)
    found = figures(Binary(), outputs, labels)
    truth, said = labels[:, 1:].flatten(), (outputs[:, 0, 1:] > 0).long().flatten()
    assert found["accuracy"] == pytest.approx(100 * oracle.accuracy_score(truth, said))


@pytest.mark.parametrize("bad", [0, 20, 39])
def test_outputs_that_are_not_finite_are_not_left_out(bad: int) -> None:
    """No figure is made of the examples that are finite alone, wherever the others are."""
    x = torch.randn(40, 3)
    x[bad] = math.nan
    examples = ArrayExamples(x, torch.arange(40) % 3)
    said = evaluate(nn.Identity(), examples, batch_size=10, task=SingleLabel())
    assert said.rows is None
    assert len(said.values) == 40
    found = figures(SingleLabel(), said.values, examples.labels)
    right = (x.argmax(1) == examples.labels) & ~x.isnan().any(1)
    assert found == {"accuracy": pytest.approx(100 * float(right.double().mean()))}
    fine = evaluate(
        nn.Identity(), ArrayExamples(torch.randn(40, 3), examples.labels), batch_size=10, task=SingleLabel()
    )
    assert fine.rows is not None


@pytest.mark.parametrize("task", [SingleLabel(), MultiLabel(), Dense(), Language()])
def test_a_task_that_does_not_fit_teaches_nothing_and_is_refused_before_the_first_step(task: Task) -> None:
    """One output with numbers: squared error would do; each of these tasks would learn nothing, or fail later."""
    x = torch.randn(40, 3)
    data = replace(load((x, x.sum(1))), task=task)
    network = nn.Linear(3, 1)
    with pytest.raises((ShapeError, DataError), match=task.name):
        run(supervised(epochs=1).stages({"student": network}), data, progress=False, device="cpu")
    run(
        supervised(epochs=1).stages({"student": network}),
        replace(data, task=Quantities()),
        progress=False,
        device="cpu",
    )


def test_what_fits_no_task_is_refused_with_both_shapes() -> None:
    with pytest.raises(DataError, match=r"\(N, 3\).*\(N, 5\).*task="):
        guess((2, 5), torch.rand(40, 3))


def test_names() -> None:
    labels = torch.randint(3, (4, 8, 8))
    assert named("segmentation", (2, 8, 8, 3), labels) == Dense(class_axis=-1)
    assert named("multi-label", (2, 3), torch.zeros(4, 3)) == MultiLabel()
    assert named("none", (2, 3, 8, 8), None).meaning is Meaning.CLASSES
    with pytest.raises(SettingError, match="did you mean 'regression'"):
        named("regresion", (2, 1), torch.zeros(4))
    with pytest.raises(DataError, match="no labels"):
        named("regression", (2, 1), None)
    with pytest.raises(SettingError, match="expected one of"):
        named(SingleLabel, (2, 3), labels)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "outputs", "labels", "says"),
    [
        (SingleLabel(), torch.zeros(4, 1), torch.zeros(4), "task='binary'"),
        (SingleLabel(), torch.zeros(4, 3), torch.ones(4, 3), "task='multi_label'"),
        (SingleLabel(classes=5), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), "5 classes"),
        (MultiLabel(), torch.zeros(4, 3), torch.full((4, 3), 2.0), "0 or 1"),
        (Binary(), torch.zeros(4, 1), torch.tensor([0, 1, 2, 1]), "0 or 1"),
        (Dense(), torch.zeros(4, 3, 2, 2), torch.full((4, 2, 2), 7), "from 7 to 7"),
        (Quantities(), torch.zeros(4, 2), torch.zeros(4), "one output for each number"),
        (Language(), torch.zeros(4, 3), torch.zeros(4), "vocabulary"),
        (Retrieval(), torch.zeros(4, 3), torch.zeros(4), "whole-number labels"),
    ],
)
def test_nonsense_is_refused(task: Task, outputs: Tensor, labels: Tensor, says: str) -> None:
    with pytest.raises((ShapeError, DataError), match=says):
        task.rows(outputs, labels)


def test_an_own_metric_judges_first() -> None:
    def spread(outputs: Tensor, labels: Tensor) -> Tensor:
        return (outputs.argmax(1) - labels).abs().double().mean()

    task = judged(SingleLabel(), (spread, "min"))
    assert isinstance(task, Judged)
    assert [metric.name for metric in task.metrics[:2]] == ["spread", "accuracy"]
    _, outputs, labels = CASES["single"]
    assert figures(task, outputs, labels)["spread"] == pytest.approx(float(spread(outputs, labels)))
    assert rank(task, {"spread": 1.0, "accuracy": 50.0}) > rank(task, {"spread": 2.0, "accuracy": 90.0})


@pytest.mark.parametrize("metric", [len, (len, "up"), ("x", "max"), 3])
def test_a_metric_without_a_direction_is_refused(metric: Any) -> None:
    with pytest.raises(SettingError, match="'max'"):
        judged(SingleLabel(), metric)


@pytest.mark.parametrize("meaning", list(Meaning))
def test_closeness_is_perfect_for_the_same_and_falls_with_noise(meaning: Meaning) -> None:
    teacher = torch.randn(N, 4, 3, 3)
    task = Unlabelled(meaning=meaning)

    def close(student: Tensor) -> dict[str, float]:
        return {figure.name: figure.estimate.value for figure in closeness_figures(task, student, teacher)}

    same, near, far = close(teacher), close(teacher + 0.1 * torch.randn_like(teacher)), close(torch.randn(N, 4, 3, 3))
    assert same.get("agreement", 100) == 100
    assert same["error_to_teacher"] == 0
    assert same["cosine_to_teacher"] == pytest.approx(1)
    for name, value in same.items():
        higher = name in {"agreement", "cosine_to_teacher"}
        assert (value >= near[name] > far[name]) if higher else (value <= near[name] < far[name])


def test_a_network_is_not_needed_for_a_task() -> None:
    """Any object with the members is a task."""
    assert isinstance(SingleLabel(), Task)
    assert not isinstance(nn.Identity(), Task)
