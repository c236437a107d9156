"""An edge without a source: the objective sees the target's tap alone."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Card, ObjectiveInput, TaskFacts
from lessen.core.errors import GraphError, ShapeError
from lessen.core.identity import identify
from lessen.engine.training import Training
from lessen.graph import (
    ActivationPenalty,
    ConfidencePenalty,
    Correct,
    Edge,
    Fit,
    Graph,
    Labels,
    Linear,
    Precision,
    Stage,
    edge_names,
    validate,
)
from lessen.graph.draw import draw
from lessen.knowledge import CrossEntropy, Hint, WidthBridge
from lessen.report.drawing import draw_graph
from lessen.report.html import Html
from lessen.surgery.taps import taps
from lessen.testing.graphs import BATCH, check_resume, flow_of, gradients, learner, quiet
from lessen.testing.tasks import clusters


def stage(**edge: Any) -> Stage:
    edges = [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(target="student", objective=ActivationPenalty(), target_tap="norm", weight=0.1),
        Edge(**{"target": "student", "objective": ConfidencePenalty(), "weight": 0.3, **edge}),
    ]
    return Stage(name="p", graph=Graph(nodes=[Labels(), learner(quiet())], edges=edges), epochs=3, fit=Fit(batch=16))


def test_penalties_equal_the_same_written_by_hand() -> None:
    student = quiet()
    hand = copy.deepcopy(student)
    made = stage().graph
    flow = flow_of([Labels(), learner(student)], made.edges)
    passed = flow(BATCH, 0.0)
    passed.total.backward()
    features = hand.norm(hand.layer1(BATCH.inputs))
    logits = hand.head(F.relu(hand.layer2(F.relu(features))))
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    (F.cross_entropy(logits, BATCH.labels) + 0.1 * features.abs().mean() - 0.3 * entropy).backward()
    torch.testing.assert_close(passed.losses[2], -entropy.detach())
    torch.testing.assert_close(gradients(student), gradients(hand))
    flow.close()


def test_enough_entropy_is_not_penalised() -> None:
    logits = torch.tensor([[0.0, 0.0], [9.0, 0.0]])
    plain, hinge = ConfidencePenalty()(logits), ConfidencePenalty(enough=0.5)(logits)
    torch.testing.assert_close(hinge, torch.stack([torch.zeros(()), 0.5 + plain[1]]))


def test_its_name_has_no_source() -> None:
    assert edge_names(stage().graph.edges) == ["labels->student", "->student:>norm", "->student"]


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    check_resume(stage, tmp_path)


def test_a_gate_that_is_one_number_and_one_that_looks_at_examples_work() -> None:
    for gate in (Linear(), lambda losses, labels, source, target: (losses < target.mean()).float()):
        flow = flow_of([Labels(), learner(quiet())], stage(gate=gate).graph.edges)
        assert torch.isfinite(flow(BATCH, 0.5).total)
        flow.close()


class Wide(nn.Module):
    """A penalty with weights, that reads the labels."""

    alone = True
    needs = (ObjectiveInput.LABELS,)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, value: Tensor, given: tuple[None, Tensor]) -> Tensor:
        assert given[0] is None
        return (value * self.scale).square().mean(1) * given[1]


class MadeForShape:
    alone: ClassVar[bool] = True
    card: ClassVar[Card] = ConfidencePenalty.card

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        assert teacher_shape is None
        return Wide(student_shape[1])


def test_a_penalty_may_learn_and_read_labels() -> None:
    flow = flow_of([Labels(), learner(quiet())], stage(objective=MadeForShape()).graph.edges)
    flow(BATCH, 0.0).total.backward()
    assert flow.owners["student"].named["objective:->student.scale"].grad is not None
    flow.close()


def test_it_is_drawn() -> None:
    drawn = draw([stage()])[0]
    assert [edge["source"] for edge in drawn["edges"]] == ["labels", None, None]
    picture = draw_graph(drawn, title="t", name="n")
    assert isinstance(picture, Html)
    assert "ConfidencePenalty(enough=None) acts on student." in str(picture)
    assert ">None<" not in str(picture)


def test_edges_of_before_are_told_as_before() -> None:
    told = identify(stage().graph.edges[0])
    assert told["source"] == "labels"
    assert set(told) == {"class"} | {
        "source", "target", "objective", "source_tap", "target_tap", "bridge", "weight", "schedule", "gate", "to_source"
    }  # fmt: skip


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"source": "labels"}, GraphError, "looks at the target alone. Leave the source out"),
    ({"objective": Hint()}, GraphError, "has no source, and Hint compares the target with one"),
    ({"objective": lambda a, b: a}, GraphError, "has no source, and <lambda> compares"),
    ({"bridge": WidthBridge()}, GraphError, "Leave source_tap, bridge and to_source out"),
    ({"to_source": True}, GraphError, "Leave source_tap, bridge and to_source out"),
    ({"target": "labels"}, GraphError, "arrives at 'labels', which cannot learn"),
    ({"target_tap": taps("norm", "layer2")}, ShapeError, "cannot be computed on its target's value of shape tuple"),
    ({"gate": Correct()}, GraphError, "a source that gives one score per class"),
]


@pytest.mark.parametrize(("edge", "kind", "said"), WRONG)
def test_what_does_not_fit_is_named(edge: dict[str, Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        validate(stage(**edge), BATCH)


def test_penalties_in_half_precision_are_near_those_in_full_and_resumed(tmp_path: Path) -> None:
    def make(precision: Precision = Precision.BFLOAT16) -> Stage:
        return dataclasses.replace(stage(), fit=Fit(batch=16, precision=precision))

    def first(precision: Precision) -> list[float]:
        made = make(precision)
        training = Training(made, 0, clusters(), seed=0, device="cpu")
        passed = training._gradients(0.0)[0]
        training.close()
        student: Any = made.graph.nodes[1].network
        return [*(float(passed.losses[number]) for number in (1, 2)), float(student.norm.weight.grad.norm())]

    full, short = first(Precision.FULL), first(Precision.BFLOAT16)
    assert short == pytest.approx(full, rel=0.02)
    assert all(one != other for one, other in zip(full, short, strict=True))
    check_resume(make, tmp_path)
