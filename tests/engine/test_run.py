"""The loop: against a loop written by hand, its log, its best epoch, its errors."""

import copy
import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import ArrayExamples, Card, Data, settings
from lessen.core.errors import DataError, GraphError, RunError, SettingError
from lessen.core.files import read_lines
from lessen.core.seeds import generator
from lessen.engine import Course, History, run
from lessen.engine.home import Home
from lessen.graph import (
    SGD,
    Adam,
    Constant,
    Cosine,
    Edge,
    Fit,
    Graph,
    Labels,
    Linear,
    LinearWarmup,
    Network,
    Precision,
    Stage,
)
from lessen.knowledge import AttentionTransfer, ContrastiveRepresentation, CrossEntropy, Regression, SoftTargets
from lessen.schemes import Offline, Supervised, at, supervised
from lessen.surgery.digest import digest
from lessen.testing.tasks import clusters, perceptron


def train(stages: list[Stage], data: Data | None = None, **more: Any) -> History:
    return run(stages, data or clusters(), **{"device": "cpu", "progress": False, **more})


def linear(seed: int = 0) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(8, 4)


def test_the_loop_equals_a_loop_written_by_hand() -> None:
    ours, theirs, data = linear(), linear(), clusters()
    fit = Fit(batch=16, optimizer=SGD(rate=0.1), schedule=Cosine(), keep_best=False, clip=0.5)
    train(Supervised(epochs=3, fit=fit).stages({"student": ours}), seed=5)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for step in range(15):
        drawn = torch.randperm(80, generator=generator(5, "order", 0, step // 5))
        index = drawn[step % 5 * 16 :][:16]
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * Cosine().at(step / 15)
        F.cross_entropy(theirs(data.train.inputs[index]), data.train.labels[index]).backward()
        nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(ours.weight, theirs.weight)


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_same_batch(parts: int) -> None:
    whole, cut = linear(), linear()
    for network, accumulate in ((whole, 1), (cut, parts)):
        train(Supervised(epochs=2, fit=Fit(batch=16, accumulate=accumulate)).stages({"student": network}))
    torch.testing.assert_close(whole.weight, cut.weight)
    with pytest.raises(SettingError, match="multiple of 3"):
        train(Supervised(epochs=2, fit=Fit(batch=16, accumulate=3)).stages({"student": cut}))


def test_the_layout_in_memory_changes_no_result(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = ArrayExamples(torch.randn(48, 3, 8, 8), torch.arange(48) % 4)
    data = Data(train=images, validation=images, test=images, classes=tuple("abcd"), name="noise")
    rows, last = torch.channels_last, torch.contiguous_format
    ended, seen = {}, {}
    for lies in (False, True):
        torch.manual_seed(1)
        teacher, student = (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(216, 4)) for _ in range(2))
        layouts = seen.setdefault(lies, set())
        hook = student[0].register_forward_hook(
            lambda _module, _inputs, output, layouts=layouts: (
                layouts.add(output.is_contiguous(memory_format=rows)) if output.requires_grad else None
            )
        )
        lessons = (SoftTargets(), at("0", AttentionTransfer()))
        fit = Fit(batch=16, optimizer=SGD(rate=0.02), channels_last=lies)
        stages = Offline(knowledge=lessons, epochs=2, fit=fit).stages({"teacher": teacher, "student": student})
        train(stages, data, folder=tmp_path / str(lies))
        hook.remove()
        assert all(network[0].weight.is_contiguous(memory_format=last) for network in (teacher, student))
        ended[lies] = student.state_dict()
    assert seen == {False: {False}, True: {True}}
    for name, tensor in ended[False].items():
        torch.testing.assert_close(ended[True][name], tensor, rtol=1e-4, atol=1e-5)


def test_the_log_is_what_readers_expect(tmp_path: Path) -> None:
    cast = {"teacher": perceptron(12, seed=1), "student": perceptron(8, seed=2)}
    lesson = at("layer2", SoftTargets(), weight=0.5, schedule=LinearWarmup())
    fit = Fit(batch=40, optimizer=Adam(rate=0.01), schedule=Constant())
    history = train(Offline(knowledge=(lesson,), epochs=2, fit=fit).stages(cast), folder=tmp_path)
    rows = read_lines(tmp_path / "log.jsonl")
    assert [(row["kind"], row["step"], row["epoch"]) for row in rows] == [
        ("validation", 0, 0),
        ("step", 0, 0),
        ("step", 1, 0),
        ("validation", 2, 0),
        ("step", 2, 1),
        ("step", 3, 1),
        ("validation", 4, 1),
    ]
    step = rows[4]
    assert set(step) == {"kind", "stage", "name", "epoch", "step", "loss", "edges", "rate", "seconds"}
    assert step["rate"] == {"student": 0.01}
    edge = step["edges"]["teacher->student:layer2>layer2"]
    assert edge["weight"] == 0.25  # half of the weight at half of the way
    labels = step["edges"]["labels->student"]["loss"]
    assert step["loss"]["student"] == pytest.approx(labels + 0.25 * edge["loss"], rel=1e-5)
    look = rows[3]
    assert set(look) == {"kind", "stage", "name", "epoch", "step", "figures", "best", "improved"}
    assert set(look["figures"]["student"]) == {"accuracy", "nll", "calibration_error"}
    assert "teacher->student:layer2>layer2" not in rows[1]["edges"]  # its weight is still 0
    assert history.validations == [rows[0], rows[3], rows[6]]
    assert json.loads((tmp_path / "graph.json").read_text())[0]["nodes"][1]["name"] == "teacher"


def test_validation_figures_are_those_of_the_network(tmp_path: Path) -> None:
    network, data = linear(), clusters()
    history = train(Supervised(epochs=1, fit=Fit(keep_best=False)).stages({"student": network}))
    output = network(data.validation.inputs)
    figures = history.validations[-1]["figures"]["student"]
    right = (output.argmax(1) == data.validation.labels).float().mean() * 100
    assert figures["accuracy"] == pytest.approx(float(right))
    assert figures["nll"] == pytest.approx(F.cross_entropy(output, data.validation.labels).item(), rel=1e-5)


def test_the_best_epoch_is_kept() -> None:
    network = perceptron(16, seed=1)
    wild = Fit(batch=16, optimizer=SGD(rate=0.6), schedule=Constant())
    history = train(Supervised(epochs=8, fit=wild).stages({"student": network}))
    data, best = clusters(), history.best("student")
    got = float((network(data.validation.inputs).argmax(1) == data.validation.labels).float().mean() * 100)
    accuracies = [row["figures"]["student"]["accuracy"] for row in history.validations]
    assert got == pytest.approx(best) == pytest.approx(max(accuracies))
    assert accuracies[-1] < max(accuracies)  # so keeping the last would have been seen
    assert not network.training


def test_patience_ends_a_stage() -> None:
    still = Fit(batch=40, optimizer=SGD(rate=1e-12), patience=3)
    history = train(Supervised(epochs=50, fit=still).stages({"student": linear()}))
    assert len(history.validations) < 10


def test_regression_and_no_labels() -> None:
    data = clusters()
    numbers = [ArrayExamples(part.inputs, part.inputs[:, 0]) for part in (data.train, data.validation, data.test)]
    real = Data(train=numbers[0], validation=numbers[1], test=numbers[2])
    torch.manual_seed(0)
    student = nn.Linear(8, 1)
    history = train(supervised(Regression(), epochs=4, fit=Fit(batch=16)).stages({"student": student}), real)
    errors = [row["figures"]["student"]["rmse"] for row in history.validations]
    assert errors[-1] < errors[0]
    bare = [ArrayExamples(part.inputs) for part in (data.train, data.validation, data.test)]
    cast = {"teacher": perceptron(8, seed=1), "student": perceptron(8, seed=2)}
    unlabelled = Data(train=bare[0], validation=bare[1], test=bare[2], classes=data.classes)
    history = train(Offline(labels=0.0, epochs=4, fit=Fit(batch=16)).stages(cast), unlabelled)
    losses = [row["figures"]["student"]["loss"] for row in history.validations]
    assert losses[-1] < losses[0]


def test_probabilities_as_labels_are_not_numbers_that_logits_should_equal() -> None:
    data = clusters()
    parts = [data.train, data.validation, data.test]
    soft = [ArrayExamples(p.inputs, 0.9 * F.one_hot(p.labels, 4) + 0.025) for p in parts if p.labels is not None]
    history = train(
        Supervised(epochs=2, fit=Fit(batch=16)).stages({"student": linear()}),
        dataclasses.replace(data, train=soft[0], validation=soft[1]),
    )
    (figures,) = [row["figures"]["student"] for row in history.validations][-1:]
    assert set(figures) == {"accuracy", "nll", "calibration_error"}
    # Between the entropy of these labels and what an even guess costs.
    assert 0.348 < figures["nll"] < 1.387


def test_what_knows_training_examples_by_number_is_no_figure_of_the_validation_split() -> None:
    data = clusters(train=16, other=32)  # more to choose by than to learn from: their numbers mean nothing there
    bare = [ArrayExamples(part.inputs) for part in (data.train, data.validation, data.test)]
    unlabelled = Data(train=bare[0], validation=bare[1], test=bare[2], classes=data.classes)
    cast = {"teacher": perceptron(8, seed=1), "student": perceptron(8, seed=2)}
    contrast = at("layer2", ContrastiveRepresentation(by_label=False, width=4))
    short: dict[str, Any] = {"labels": 0.0, "epochs": 3, "fit": Fit(batch=8, patience=1)}
    history = train(Offline(knowledge=(contrast,), **short).stages(cast), unlabelled)
    assert [row["figures"] for row in history.validations] == [{}, {}, {}, {}]  # and patience has nothing to wait for
    history = train(Offline(knowledge=(contrast, SoftTargets()), **short).stages(cast), unlabelled)
    first = history.validations[0]["figures"]["student"]["loss"]
    assert 0 < first < 1  # of the soft targets alone: the contrast costs more


def test_a_loss_that_is_not_finite_stops_with_stage_step_and_edge(tmp_path: Path) -> None:
    wild = Fit(batch=16, optimizer=SGD(rate=1e30), schedule=Constant())
    with pytest.raises(DataError, match=r"Stage 'supervised', step \d+: the loss of the edge labels->student"):
        train(Supervised(epochs=3, fit=wild).stages({"student": perceptron(8, seed=0)}), folder=tmp_path)
    assert not list((tmp_path / "checkpoints").glob("*"))
    assert None in [row["loss"]["student"] for row in read_lines(tmp_path / "log.jsonl") if row["kind"] == "step"]


def test_a_bad_label_stops_with_stage_step_and_edge() -> None:
    data = clusters()
    labels = data.train.labels.clone()
    labels[50] = 9
    broken = dataclasses.replace(data, train=ArrayExamples(data.train.inputs, labels))
    with pytest.raises(DataError, match=r"Stage 'supervised', step \d: The edge labels->student"):
        train(Supervised(epochs=1, fit=Fit(batch=16)).stages({"student": linear()}), broken)


def test_an_error_before_the_first_step_writes_nothing(tmp_path: Path) -> None:
    cast = {"teacher": perceptron(8, seed=1), "student": perceptron(8, seed=2)}
    with pytest.raises(LookupError, match="layer1"):
        train(Offline(knowledge=(at("layer9", SoftTargets()),)).stages(cast), folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_a_run_is_not_written_over(tmp_path: Path) -> None:
    stages = Supervised(epochs=1).stages({"student": linear()})
    train(stages, folder=tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match="already contains a run"):
        train(stages, folder=tmp_path)
    with pytest.raises(RunError, match="other stages, settings, data or seed"):
        train(stages, folder=tmp_path, resume=True, seed=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    with pytest.raises(SettingError, match="no stages to run"):
        train([])


def test_a_complete_run_is_loaded_by_resuming_it(tmp_path: Path) -> None:
    first, second = linear(), linear(1)
    done = train(Supervised(epochs=2).stages({"student": first}), folder=tmp_path)
    again = train(Supervised(epochs=2).stages({"student": second}), folder=tmp_path, resume=True)
    assert digest(first) == digest(second)
    assert (again.steps, again.validations) == (0, done.validations)


def test_the_random_state_of_the_program_is_left_alone() -> None:
    before = torch.get_rng_state()
    train(Supervised(epochs=1).stages({"student": perceptron(8, seed=1)}))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    one, two = perceptron(8, seed=1), perceptron(8, seed=1)
    train(Supervised(epochs=1).stages({"student": one}))
    torch.rand(3)
    train(Supervised(epochs=1).stages({"student": two}))
    assert digest(one) == digest(two)


def test_accelerates_state_does_not_leak() -> None:
    from accelerate.state import AcceleratorState, PartialState

    assert PartialState._shared_state == {}
    network = linear()
    half = Course(
        Supervised(epochs=1, fit=Fit(batch=16, precision=Precision.BFLOAT16)).stages({"student": network}),
        clusters(),
        device="cpu",
    )
    full = Course(Supervised(epochs=1, fit=Fit(batch=16)).stages({"student": linear()}), clusters(), device="cpu")
    trainings = [next(iter(course.steps())) for course in (half, full)]
    for training, precision in zip(trainings, ("bf16", "no"), strict=True):
        with training.home.inside():
            assert training.home.accelerator.mixed_precision == precision
    assert PartialState._shared_state == AcceleratorState._shared_state == {}
    assert network.weight.dtype == torch.float32
    assert "forward" not in network.__dict__  # mixed precision is put around the flow, not into the network


def test_bfloat16_computes_in_bfloat16_and_full_does_not() -> None:
    seen: list[torch.dtype] = []

    class Looking(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            if self.training:
                seen.append(out.dtype)
            return out

    for precision in (Precision.BFLOAT16, Precision.FULL):
        train(Supervised(steps=1, fit=Fit(precision=precision)).stages({"student": Looking(8, 4)}))
    assert seen == [torch.bfloat16, torch.float32]


@pytest.mark.skipif(torch.cuda.is_available(), reason="only where there is no GPU")
def test_what_this_machine_cannot_do_is_said() -> None:
    with pytest.raises(SettingError, match="FLOAT16 needs a CUDA device"):
        Home(device="cpu", precision=Precision.FLOAT16)
    with pytest.raises(SettingError, match="cuda"):
        Home(device="cuda", precision=Precision.FULL)


def test_each_node_moves_by_its_own_rule() -> None:
    one, two = linear(1), linear(2)
    before = copy.deepcopy(two.state_dict())
    graph = Graph(
        nodes=[
            Labels(),
            Network(name="one", module=one, learns=True, optimizer=Adam(rate=0.1), schedule=Constant()),
            Network(name="two", module=two, learns=True, optimizer=SGD(rate=1e-20, decay=0.0)),
        ],
        edges=[Edge(source="labels", target=name, objective=CrossEntropy()) for name in ("one", "two")],
    )
    history = train([Stage(name="s", graph=graph, steps=3, fit=Fit(keep_best=False))])
    assert history.last is not None
    assert history.last["rate"]["one"] == 0.1
    assert all(torch.allclose(v, before[k]) for k, v in two.state_dict().items())
    assert history.steps == 3


def test_an_edge_that_opens_late_does_nothing_before() -> None:
    """All edges closed at the first step: nothing moves, and it is not an error."""
    network = linear()
    edge = Edge(source="labels", target="s", objective=CrossEntropy(), gate=Linear())
    graph = Graph(nodes=[Labels(), Network(name="s", module=network, learns=True)], edges=[edge])
    steps = Course([Stage(name="s", graph=graph, steps=4)], clusters(), device="cpu").steps()
    before = digest(network)
    next(steps)
    assert digest(network) == before
    next(steps)
    assert digest(network) != before


@settings
class Counted:
    """Counts how often it is called."""

    card: ClassVar[Card] = CrossEntropy.card
    calls: ClassVar[list[int]] = []

    def __call__(self, given: Tensor, labels: Tensor, /) -> Tensor:
        self.calls.append(len(given))
        return F.cross_entropy(given, labels, reduction="none")


def test_every_pass_sees_its_own_order_and_whole_batches() -> None:
    Counted.calls.clear()
    train(supervised(Counted(), epochs=2, fit=Fit(batch=32)).stages({"student": linear()}))
    assert Counted.calls == [4, *[32] * 4]  # the check, then two whole batches in each pass over 80 examples
    Counted.calls.clear()
    train(supervised(Counted(), epochs=1, fit=Fit(batch=500)).stages({"student": linear()}))
    assert Counted.calls == [4, 80]


def test_a_node_without_labels_in_classification_is_a_graph_error() -> None:
    with pytest.raises(GraphError, match="No node learns"):
        train(Offline(labels=0.0, knowledge=()).stages({"teacher": linear(), "student": linear(1)}))


@pytest.mark.slow
def test_mlflow_gets_what_is_logged(tmp_path: Path) -> None:
    """In a process of its own: MLflow sets up its database, its threads and its warnings for a whole program."""
    pytest.importorskip("mlflow")
    code = f"""
import torch, mlflow
from lessen.engine import MLflow, run
from lessen.schemes import Supervised
from lessen.testing.tasks import clusters
stages = Supervised(epochs=2).stages({{"student": torch.nn.Linear(8, 4)}})
run(stages, clusters(), device="cpu", track=(MLflow(where="sqlite:///{tmp_path}/m.db"),))
(found,) = mlflow.search_runs(experiment_names=["lessen"], output_format="list")
print("names:", *sorted(found.data.metrics), sep="|")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    names = done.stdout.split("names:")[1].strip().split("|")
    assert {"edges/labels to student/loss", "loss/student", "figures/student/accuracy"} <= set(names)


def test_tensorboard_gets_what_is_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from lessen.engine import TensorBoard

    train(Supervised(epochs=2).stages({"student": linear()}), folder=tmp_path, track=(TensorBoard(),))
    events = EventAccumulator(str(tmp_path / "tensorboard" / tmp_path.name))
    events.Reload()
    found = events.Tags()["scalars"]
    assert {"loss/student", "rate/student", "figures/student/accuracy"} <= set(found)
    rows = [row for row in read_lines(tmp_path / "log.jsonl") if row["kind"] == "step"]
    logged = [event.value for event in events.Scalars("loss/student")]
    assert logged == pytest.approx([row["loss"]["student"] for row in rows])
    looks = [row for row in read_lines(tmp_path / "log.jsonl") if row["kind"] == "validation"]
    assert [event.step for event in events.Scalars("figures/student/accuracy")] == [row["step"] for row in looks]


@pytest.mark.parametrize(
    ("batch", "size", "what"),
    [(80, 1.0, "on the validation split"), (80, 1e4, "the weight .* of 'student'"), (40, 1e4, "the weight")],
)
def test_a_network_that_diverges_is_found_before_its_next_step(
    batch: int, size: float, what: str, tmp_path: Path
) -> None:
    """The losses of the steps are finite; what the last one leaves behind is not, and nothing of it is kept."""
    fit = Fit(batch=batch, optimizer=SGD(rate=1e38), schedule=Constant(), clip=None, checkpoint_steps=1, restarts=0)
    student, data = linear(), clusters()
    stages = supervised(epochs=1, fit=fit).stages({"student": student})
    assert isinstance(data.train, ArrayExamples)
    assert isinstance(data.train.inputs, Tensor)
    with torch.no_grad():
        student.weight.div_(size)
        data.train.inputs.mul_(size)
    with pytest.raises(DataError, match=f"step 0: .*{what}.*a lower rate"):
        train(stages, data, folder=tmp_path)
    assert not list(tmp_path.glob("checkpoints/*"))
