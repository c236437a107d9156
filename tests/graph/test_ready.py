"""An edge made ready: several taps, additional inputs, objectives that learn, that change, and that pair taps."""

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Card, Data, ObjectiveInput, TaskFacts, settings
from lessen.core.errors import DataError, LessenError, ShapeError
from lessen.engine import run
from lessen.graph import Edge, Fit, Flow, Graph, Network, Stage
from lessen.knowledge import Hint, WidthBridge
from lessen.schemes import Offline, at, taps
from lessen.testing.tasks import clusters, perceptron

CARD = Card(row="tests / planted", paper="none", says="Says.", costs="None.", fails_when="Never.")
BATCH = clusters().train.fetch(torch.arange(16))


@settings
class Flow2:
    """How much the second tap differs between the networks, counted from the first: needs two taps on each side."""

    card: ClassVar[Card] = CARD

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        (first, second), (t_first, t_second) = student, teacher
        return (second.sum(1) - first.sum(1) - t_second.sum(1) + t_first.sum(1)).square()


@settings
class AtTheLabel:
    """The squared difference of two outputs at the label, and nothing of the index."""

    card: ClassVar[Card] = CARD
    needs: ClassVar = (ObjectiveInput.LABELS, ObjectiveInput.INDEX)

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        values, labels, index = teacher
        assert index.shape == labels.shape
        return (student - values).gather(1, labels[:, None]).squeeze(1).square()


class Seen(nn.Module):
    """Counts the examples it has seen in training, and learns one factor."""

    card: ClassVar[Card] = CARD

    def __init__(self, width: int, task: TaskFacts) -> None:
        super().__init__()
        self.task = task
        self.factor = nn.Parameter(torch.randn(width))
        self.seen: Tensor
        self.register_buffer("seen", torch.zeros(()))
        self.progress: list[float] = []

    def during(self, progress: float) -> nn.Module:
        self.progress.append(progress)
        return self

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.training:
            self.seen += len(student)
        return (student * self.factor - teacher).square().mean(1)


@settings
class Memory:
    """Settings of an objective with state."""

    card: ClassVar[Card] = CARD

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        if tuple(student_shape) != tuple(teacher_shape):
            raise ShapeError(f"Memory needs the same shape, got {tuple(student_shape)} and {tuple(teacher_shape)}.")
        return Seen(student_shape[1], task)


def networks() -> tuple[nn.Module, nn.Module]:
    return perceptron(8, seed=1), perceptron(12, seed=2)


def flow_of(student: nn.Module, teacher: nn.Module, **edge: Any) -> Flow:
    nodes = [Network(name="t", module=teacher, learns=False), Network(name="s", module=student, learns=True)]
    graph = Graph(nodes=nodes, edges=[Edge(source="t", target="s", **edge)])
    made = Flow(Stage(name="s", graph=graph, epochs=1), BATCH, task=TaskFacts(examples=80, classes=4))
    made.set_mode(training=True)
    return made


def test_several_taps_are_read_together() -> None:
    student, teacher = networks()
    flow = flow_of(
        student, teacher, objective=Flow2(), source_tap=taps("layer1", ""), target_tap=taps("layer2", "head")
    )
    assert flow.names == ["t->s:layer1+>layer2+head"]
    # In eval mode nothing is drawn, and the batch norm is fixed: both ways must agree.
    flow.set_mode(training=False)
    got = flow(BATCH, 0.0).losses[0]
    with torch.no_grad():
        inner = student[:5](BATCH.inputs), student(BATCH.inputs)
        values = teacher.layer1(BATCH.inputs), teacher(BATCH.inputs)
    assert float(got) == pytest.approx(float(Flow2()(inner, values).mean()), rel=1e-5)


def test_a_bridge_is_built_for_each_tap() -> None:
    class Pairs(nn.Module):
        card: ClassVar[Card] = CARD

        def forward(self, student: Any, teacher: Any) -> Tensor:
            return sum((s - t).square().mean(1) for s, t in zip(student, teacher, strict=True))

    student, teacher = networks()
    where = {"source_tap": taps("layer1", "layer2"), "target_tap": taps("layer1", "layer2")}
    flow = flow_of(student, teacher, objective=Pairs(), bridge=WidthBridge(), **where)
    flow(BATCH, 0.0).total.backward()
    (bridge,) = [part for name, part in flow.owners["s"].parts.items() if name.startswith("bridge")]
    assert [tuple(p.shape) for p in bridge.parameters()] == [(12, 8), (12,)]  # the second pair fits as it is
    assert all(p.grad is not None for p in bridge.parameters())
    with pytest.raises(ShapeError, match="same number of taps"):
        flow_of(
            student, teacher, objective=Pairs(), bridge=WidthBridge(), source_tap="layer1", target_tap=taps("layer1")
        )


def test_labels_and_numbers_stand_beside_the_teacher() -> None:
    student, teacher = networks()
    flow = flow_of(student, teacher, objective=AtTheLabel())
    flow.set_mode(training=False)
    with torch.no_grad():
        difference = student(BATCH.inputs) - teacher(BATCH.inputs)
    expected = difference[torch.arange(16), BATCH.labels].square().mean()
    assert float(flow(BATCH, 0.0).losses[0]) == pytest.approx(float(expected), rel=1e-5)


def test_an_objective_that_needs_labels_says_so() -> None:
    student, teacher = networks()
    nodes = [Network(name="t", module=teacher, learns=False), Network(name="s", module=student, learns=True)]
    graph = Graph(nodes=nodes, edges=[Edge(source="t", target="s", objective=AtTheLabel())])
    bare = type(BATCH)(BATCH.inputs, BATCH.index, None)
    with pytest.raises(DataError, match="AtTheLabel needs the labels"):
        Flow(Stage(name="s", graph=graph, epochs=1), bare)


def test_an_objective_with_state_learns_with_the_target() -> None:
    student, teacher = networks()
    flow = flow_of(student, teacher, objective=Memory())
    (made,) = [part for name, part in flow.owners["s"].parts.items() if name.startswith("objective")]
    assert isinstance(made, Seen)
    assert made.task == TaskFacts(examples=80, classes=4)
    assert made.progress == [0.0]
    assert int(made.seen) == 0  # the dry batch is not counted
    flow(BATCH, 0.5).total.backward()
    assert made.progress[-1] == 0.5
    assert int(made.seen) == 16
    assert made.factor.grad is not None
    assert any(parameter is made.factor for parameter in flow.owners["s"].parameters)
    with pytest.raises(ShapeError, match=r"t->s.*\(16, 8\).*\(16, 12\)"):
        flow_of(student, teacher, objective=Memory(), source_tap="layer1", target_tap="layer1")


def test_its_state_is_kept_in_checkpoints(tmp_path: Any) -> None:
    def train(folder: str, *, stop: bool) -> dict[str, Tensor]:
        student, teacher = networks()
        stages = Offline(knowledge=(at("", Memory()),), epochs=3, fit=Fit(batch=20, keep_best=False)).stages(
            {"student": student, "teacher": teacher}
        )
        if stop:
            (stage,) = stages
            data = Failing(clusters(), after=7)
            with pytest.raises(LessenError, match="stop here"):
                run([stage], data.data, folder=tmp_path / folder, progress=False, device="cpu")
        data = Failing(clusters(), after=10**9).data
        run(stages, data, folder=tmp_path / folder, resume=stop, progress=False, device="cpu")
        return student.state_dict()

    whole, again = train("whole", stop=False), train("again", stop=True)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


class Failing:
    """Data whose training examples can be fetched so many times."""

    def __init__(self, data: Data, *, after: int) -> None:
        examples, left = data.train, [after]

        class Train:
            inputs, labels = examples.inputs, examples.labels

            def __len__(self) -> int:
                return len(examples)

            def fetch(self, index: Tensor) -> Any:
                if len(index) == 20:
                    left[0] -= 1
                if left[0] < 0:
                    raise LessenError("stop here")
                return examples.fetch(index)

        self.data = Data(
            train=Train(), validation=data.validation, test=data.test, classes=data.classes, name=data.name
        )


def test_an_empty_address_is_refused() -> None:
    with pytest.raises(LessenError, match="of is empty"):
        taps()
    student, teacher = networks()
    with pytest.raises(LessenError, match="layr1"):
        flow_of(student, teacher, objective=Hint(), source_tap=taps("layr1", ""), target_tap=taps("layer1", ""))
