"""Ensembles whose way to combine reads features of the members."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen.core import settings
from lessen.core.errors import GraphError, ShapeError, TapError
from lessen.graph import Edge, Ensemble, FeatureGate, Fit, Graph, Labels, Mean, MeanOf, Stage, validate
from lessen.knowledge import CrossEntropy, Hint, SoftTargets
from lessen.surgery.taps import Taps, taps
from lessen.testing.graphs import BATCH, check_resume, drawn_nodes, flow_of, frozen, gradients, learner, quiet


def nodes(combine: Any, **more: Any) -> list[Any]:
    members = [frozen(quiet(8, 2), "a"), frozen(quiet(8 if isinstance(combine, MeanOf) else 12, 4), "b")]
    return [Labels(), learner(quiet()), *members, Ensemble(name="crowd", of=("a", "b"), combine=combine, **more)]


def test_the_mean_of_features_equals_the_same_written_by_hand() -> None:
    given = nodes(MeanOf("norm"))
    hand = copy.deepcopy(given[1].module)
    flow = flow_of(given, [Edge(source="crowd", target="student", objective=Hint(), target_tap="norm")])
    flow(BATCH, 0.0).total.backward()
    x = BATCH.inputs
    one, two = (node.module.norm(node.module.layer1(x)).detach() for node in given[2:4])
    Hint()(hand.norm(hand.layer1(x)), (one + two) / 2).mean().backward()
    torch.testing.assert_close(gradients(given[1].module), gradients(hand))
    flow.close()


def stage(combine: Any, **more: Any) -> Stage:
    edges = [
        Edge(source="labels", target="crowd", objective=CrossEntropy()),
        Edge(source="crowd", target="student", objective=SoftTargets()),
    ]
    return Stage(name="crowd", graph=Graph(nodes=nodes(combine, **more), edges=edges), epochs=2, fit=Fit(batch=16))


def test_a_gate_on_features_starts_as_the_mean_and_learns() -> None:
    flow = flow_of((given := nodes(FeatureGate("norm"))), stage(FeatureGate("norm")).graph.edges)
    plain = flow_of(given, stage(Mean()).graph.edges)
    one, two = flow(BATCH, 0.0), plain(BATCH, 0.0)
    torch.testing.assert_close(one.losses, two.losses)
    one.total.backward()
    named = flow.owners["crowd"].named
    assert {name: tuple(value.shape) for name, value in named.items() if "weight" in name} == {
        "ensemble:crowd.scores.0.weight": (1, 8),
        "ensemble:crowd.scores.1.weight": (1, 12),
    }
    assert all(value.grad is not None and bool(value.grad.abs().sum() > 0) for value in named.values())
    for made in (flow, plain):
        made.close()


def test_a_gate_on_features_weighs_by_them() -> None:
    module = FeatureGate("norm").build([(torch.Size([2, 3]), torch.Size([2, 4, 5, 5]))] * 2)
    with torch.no_grad():
        module.scores[0].weight += 1.0  # type: ignore[index, union-attr, operator]
    outputs, features = torch.randn(2, 2, 3), torch.randn(2, 2, 4, 5, 5)
    first_N = torch.sigmoid(features[0].mean((2, 3)).sum(1))[:, None]
    expected = outputs[0] * first_N + outputs[1] * (1 - first_N)
    torch.testing.assert_close(module(list(zip(outputs, features, strict=True))), expected)


@pytest.mark.parametrize("combine", [FeatureGate("norm"), FeatureGate("layer1")])
def test_it_is_trained_and_resumed_bit_for_bit(combine: Any, tmp_path: Path) -> None:
    check_resume(lambda: stage(combine), tmp_path)


@settings
class Sized:
    """A way to combine from outside: outputs times the size of the first member's features."""

    @property
    def taps(self) -> Taps:
        return taps("", "norm", "layer2")

    def build(self, shapes: Sequence[Any], /) -> nn.Module:
        assert [len(shape) for shape in shapes] == [3, 3]

        class Module(nn.Module):
            def forward(self, values: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
                return values[0][0] * values[1][2].mean(1, keepdim=True)

        return Module()


def test_gradient_reaches_the_members_features_if_asked() -> None:
    for to_members in (False, True):
        given = nodes(Sized())
        given[2], given[3] = learner(given[2].module, "a"), learner(given[3].module, "b")
        given[4] = Ensemble(name="crowd", of=("a", "b"), combine=Sized(), to_members=to_members)
        edges = [Edge(source="crowd", target="student", objective=SoftTargets(), to_source=to_members)]
        flow = flow_of(given, edges)
        flow(BATCH, 0.0).total.backward()
        assert (given[3].module.layer2.weight.grad is not None) == to_members
        flow.close()


def test_an_ensemble_of_features_teaches_no_output() -> None:
    given = nodes(MeanOf("norm"), to_members=True)
    given[2] = learner(given[2].module, "a")
    flow = flow_of(given, [Edge(source="student", target="crowd", objective=Hint(), source_tap="norm")])
    assert not flow.teaches_output("a")
    flow.close()


def test_it_is_drawn() -> None:
    assert drawn_nodes(stage(FeatureGate("norm")))["crowd"]["combine"] == "FeatureGate(tap='norm')"


def one_edge(given: list[Any], source: str) -> Stage:
    graph = Graph(nodes=given, edges=[Edge(source=source, target="student", objective=SoftTargets())])
    return Stage(name="s", graph=graph, epochs=1)


WRONG: list[tuple[Stage, type[Exception], str]] = [
    (stage(FeatureGate("nrm")), TapError, "did you mean 'norm'"),
    (
        one_edge([*nodes(MeanOf("norm"))[:3], frozen(quiet(12), "b"), nodes(MeanOf("norm"))[4]], "crowd"),
        ShapeError,
        r"different shapes: \(16, 8\) and \(16, 12\)",
    ),
    (
        one_edge([*nodes(Mean()), Ensemble(name="outer", of=("a", "crowd"), combine=FeatureGate("norm"))], "outer"),
        GraphError,
        r"taps '\+norm' in its member 'crowd', which has no layers",
    ),
]


@pytest.mark.parametrize(("made", "kind", "said"), WRONG)
def test_what_does_not_fit_is_named(made: Stage, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        validate(made, BATCH)
