"""Nodes that are gradients inside networks."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import GraphError, TapError
from lessen.engine.evaluate import evaluate
from lessen.graph import (
    Cache,
    Edge,
    Fit,
    From,
    Gradient,
    Graph,
    Labels,
    LargestOutput,
    Stage,
    validate,
)
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.surgery.taps import Tap
from lessen.testing.graphs import BATCH, check_resume, drawn_nodes, flow_of, frozen, gradients, learner, quiet
from lessen.testing.tasks import clusters

INPUT = Tap(side="input")
TAPS = ("norm", "layer2", INPUT)


def nodes(tap: Any, loss: Any = None, source: str | None = None) -> list[Any]:
    loss = LargestOutput() if loss is None else loss
    return [
        Labels(),
        learner(quiet()),
        frozen(quiet(8, 2)),
        Gradient(name="ours", of="student", tap=tap, loss=loss, source=source),
        Gradient(name="theirs", of="teacher", tap=tap, loss=loss, source=source),
    ]


def edges(**more: Any) -> list[Edge]:
    return [
        Edge(source="labels", target="student", objective=CrossEntropy()),
        Edge(**{"source": "theirs", "target": "ours", "objective": Hint(), "weight": 0.5, **more}),
    ]


def by_hand(network: nn.Module, tap: Any, loss: Any) -> tuple[Tensor, Tensor]:
    """The gradient, with a graph behind it, and the output."""
    x = BATCH.inputs.clone().requires_grad_()
    norm = network.norm(network.layer1(x))
    inner = network.layer2(F.relu(norm))
    output = network.head(F.relu(inner))
    value = {"norm": norm, "layer2": inner, INPUT: x}[tap]
    return torch.autograd.grad(loss(output).sum(), value, create_graph=True)[0], output


@pytest.mark.parametrize("tap", TAPS)
@pytest.mark.parametrize("labelled", [False, True])
def test_matching_gradients_equals_the_same_written_by_hand(tap: Any, labelled: bool) -> None:
    given = nodes(tap, CrossEntropy() if labelled else None, "labels" if labelled else None)

    def loss(output: Tensor) -> Tensor:
        return CrossEntropy()(output, BATCH.labels) if labelled else output.max(1).values

    student, teacher = copy.deepcopy(given[1].module), copy.deepcopy(given[2].module).eval()
    flow = flow_of(given, edges())
    passed = flow(BATCH, 0.0)
    passed.total.backward()
    (ours, output), (theirs, _) = by_hand(student, tap, loss), by_hand(teacher, tap, loss)
    matched = Hint()(ours, theirs.detach()).mean()
    (F.cross_entropy(output, BATCH.labels) + 0.5 * matched).backward()
    torch.testing.assert_close(passed.losses[1], matched.detach())
    torch.testing.assert_close(gradients(given[1].module), gradients(student), rtol=1e-4, atol=1e-6)
    assert gradients(given[2].module) == [None] * len(gradients(given[2].module))
    flow.close()


def test_it_teaches_by_second_derivatives() -> None:
    given = nodes("norm")
    flow = flow_of(given, edges()[1:])
    flow(BATCH, 0.0).total.backward()
    # The gradient at `norm` depends on what follows it, and through ReLU on nothing before it.
    assert given[1].module.layer2.weight.grad is not None
    assert float(given[1].module.layer2.weight.grad.abs().sum()) > 0
    flow.close()


def test_values_of_other_taps_are_what_they_were() -> None:
    given = nodes("norm")
    more = Edge(source="teacher", target="student", objective=Hint(), source_tap="norm", target_tap="norm")
    flow, plain = flow_of(given, [*edges(), more]), flow_of(given[:3], [edges()[0], more])
    for made in (flow, plain):
        made.set_mode(training=False)
    assert torch.equal(flow(BATCH, 0.0).losses[2], plain(BATCH, 0.0).losses[1])
    for made in (flow, plain):
        made.close()


def stage(**more: Any) -> Stage:
    return Stage(name="g", graph=Graph(nodes=nodes("norm"), edges=edges(**more)), epochs=2, fit=Fit(batch=16))


def test_it_is_trained_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    check_resume(stage, tmp_path)


def test_the_student_is_judged_and_the_gradient_is_not() -> None:
    flow = flow_of(nodes("norm"), edges())
    assert set(evaluate(flow, clusters(), torch.device("cpu"))) == {"student"}
    flow.close()


def test_a_frozen_reader_has_gradients_that_move_what_it_reads() -> None:
    making = nn.Linear(8, 8)
    given = [
        learner(making, "generator"),
        frozen(quiet(), reads=From("generator", to_node=True)),
        Gradient(name="g", of="teacher", tap="norm", loss=LargestOutput()),
        Gradient(name="whole", of="teacher", tap="layer1", loss=lambda output, source: output.square().sum(1)),
        frozen(quiet(8, 2), "other"),
    ]
    edge = Edge(source="other", target="whole", objective=Hint(), source_tap="layer1")
    flow = flow_of(given, [edge])
    flow(BATCH, 0.0).total.backward()
    assert making.weight.grad is not None
    assert float(making.weight.grad.abs().sum()) > 0
    flow.close()


def test_it_is_drawn() -> None:
    drawn = drawn_nodes(stage())["ours"]
    assert drawn == {
        "name": "ours", "kind": "Gradient", "learns": False, "of": ["student"], "tap": "norm",
        "loss": "LargestOutput()",
        "moves": ["student"],
    }  # fmt: skip


def changed(**more: Any) -> list[Any]:
    given = {"name": "ours", "of": "student", "tap": "norm", "loss": LargestOutput(), **more}
    return [*nodes("norm")[:3], Gradient(**given), nodes("norm")[4]]


WRONG: list[tuple[list[Any], type[Exception], str]] = [
    (changed(of="studnt"), GraphError, "did you mean 'student'"),
    (changed(of="labels"), GraphError, "a Labels; it needs a network"),
    (changed(tap="nrm"), TapError, "did you mean 'norm'"),
    (changed(loss=lambda output, source: torch.zeros(len(output))), GraphError, "finds no gradient at 'norm'"),
    (
        [Labels(), learner(quiet()), frozen(quiet(8, 2), cache=Cache()), *nodes("norm")[3:]],
        GraphError,
        "needs 'teacher' computed, but it is cached",
    ),
]


@pytest.mark.parametrize(("given", "kind", "said"), WRONG)
def test_what_does_not_fit_is_named(given: list[Any], kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        validate(Stage(name="s", graph=Graph(nodes=given, edges=edges()), epochs=1), BATCH)


def test_an_edge_to_the_gradient_of_a_frozen_network_is_refused() -> None:
    with pytest.raises(GraphError, match="arrives at 'theirs', which cannot learn"):
        validate(stage(source="ours", target="theirs"), BATCH)


def test_the_output_itself_may_be_tapped() -> None:
    given = nodes("", loss=lambda output, source: SoftTargets()(output, output.detach().flip(1)))
    flow = flow_of(given, edges())
    assert torch.isfinite(flow(BATCH, 0.0).total)
    flow.close()
