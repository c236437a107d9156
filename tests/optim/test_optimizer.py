"""Each group of an optimizer keeps its own learning rate, times the schedule."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from lessen.core import settings
from lessen.engine import Course
from lessen.graph import Branch, Constant, Cosine, Edge, Fit, Graph, Labels, Network, Stage
from lessen.knowledge import CrossEntropy, Hint, WidthBridge
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters, perceptron


@settings
class Layered:
    """Lower layers move less, the head does not move, and only weights of two axes decay."""

    rate: float = 0.1

    def build(self, parameters: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        groups: list[dict[str, Any]] = []
        for name, parameter in parameters.items():
            factor = 0.0 if name.startswith("head.") else 0.5 if name.startswith("layer1.") else 1.0
            decay = 0.1 if parameter.ndim > 1 else 0.0
            groups.append({"params": [parameter], "lr": self.rate * factor, "weight_decay": decay, "path": name})
        return torch.optim.SGD(groups, lr=self.rate)


def course(schedule: Any, network: nn.Module) -> Course:
    graph = Graph(
        nodes=[
            Labels(),
            Network(name="teacher", module=perceptron(12, seed=2), learns=False),
            Network(name="student", module=network, learns=True),
            Branch(name="exit", of="student", tap=Tap(path="layer1")),
        ],
        edges=[
            Edge(source="labels", target="student", objective=CrossEntropy()),
            Edge(source="labels", target="exit", objective=CrossEntropy()),
            Edge(
                source="teacher",
                target="student",
                objective=Hint(),
                source_tap="layer1",
                target_tap="layer1",
                bridge=WidthBridge(),
            ),
        ],
    )
    fit = Fit(batch=16, optimizer=Layered(), schedule=schedule, keep_best=False)
    return Course([Stage(name="s", graph=graph, epochs=1, fit=fit)], clusters(), device="cpu")


@pytest.mark.parametrize("schedule", [Constant(), Cosine()])
def test_groups_keep_their_rates_and_names(schedule: Any) -> None:
    network = perceptron(8, seed=1)
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    seen: list[dict[str, float]] = []
    for training in course(schedule, network).steps():
        groups = training.optimizers["student"].param_groups
        seen.append({group["path"]: group["lr"] for group in groups})
    assert {name for name in seen[0] if ":" in name} == {
        "head:exit.1.weight",
        "head:exit.1.bias",
        "bridge:teacher->student:layer1>layer1.weight",
        "bridge:teacher->student:layer1>layer1.bias",
    }
    for number, rates in enumerate(seen):
        factor = schedule.at(number / len(seen))
        assert rates["layer2.weight"] == 0.1 * factor
        assert rates["layer1.weight"] == 0.05 * factor
        assert rates["head.weight"] == 0
    for name, value in network.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith("head."), name
