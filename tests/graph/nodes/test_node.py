"""A kind of node that lessen does not know: trained, resumed, drawn, refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lessen.core.errors import GraphError
from lessen.core.files import read_lines
from lessen.core.settings import named_fields
from lessen.engine import Course, run
from lessen.graph import Edge, Ensemble, Fit, Graph, Labels, LastStep, Network, Node, Snapshot, Stage
from lessen.graph.draw import draw
from lessen.graph.nodes import WHOLE, Making, Now, Unit
from lessen.graph.nodes.node import find
from lessen.knowledge import CrossEntropy, SoftTargets
from lessen.surgery.taps import Tap
from lessen.testing.tasks import clusters, perceptron


@named_fields
class Rescaled(Node):
    """The output of another node times a factor that is learned."""

    name: str
    of: str
    start: float = 1.0

    @property
    def made_of(self) -> Sequence[str]:
        return (self.of,)

    def can_learn(self) -> bool:
        return True

    def check(self, nodes: Mapping[str, Node]) -> None:
        find(self.of, nodes, f"the node {self.name!r}", lambda node: node.has_output, "an output")

    def taps_in(self, name: str) -> Sequence[Tap]:
        return (WHOLE,) if name == self.of else ()

    def unit(self, making: Making) -> Unit:
        return RescaledUnit(self)

    def drawn(self, short: Any) -> dict[str, Any]:
        return {"of": [self.of], "start": self.start}


class Factor(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(start))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scaled: torch.Tensor = x * self.factor
        return scaled


class RescaledUnit(Unit):
    kind = "factor"
    learns = True

    def __init__(self, node: Rescaled) -> None:
        self.name, self.of, self.module = node.name, node.of, Factor(node.start)

    def compute(self, now: Now) -> None:
        assert self.module is not None
        now.values[self.name] = {WHOLE: self.module(now.values[self.of][WHOLE].detach())}


def stage(**given: Any) -> Stage:
    """A frozen teacher, rescaled, teaches a student, which teaches the factor; the last step of the student as well."""
    torch.manual_seed(0)
    nodes = [
        Network(name="teacher", module=perceptron(16, seed=1), learns=False),
        Network(name="student", module=perceptron(8, seed=2), learns=True),
        Rescaled(name="calmer", **{"of": "teacher", "start": 0.5, **given}),
        Snapshot(name="before", of="student", when=LastStep()),
        Ensemble(name="both", of=("calmer", "before")),
        Labels(),
    ]
    edges = [
        Edge(source="labels", target="calmer", objective=CrossEntropy()),
        Edge(source="calmer", target="student", objective=SoftTargets(temperature=2.0)),
        Edge(source="both", target="student", objective=SoftTargets(temperature=2.0), weight=0.5),
    ]
    return Stage(name="own", graph=Graph(nodes=nodes, edges=edges), epochs=3, fit=Fit(batch=16))


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_lines(folder / "log.jsonl")]


def trained(folder: Path, stops: Sequence[int]) -> dict[str, Any]:
    """The weights of the student after a run that is left after so many steps, and resumed."""
    for stop in [*stops, 10**6]:
        made = stage()
        course = Course([made], clusters(), folder=folder, device="cpu", resume=True)
        steps = course.steps()
        for _ in range(stop):
            if next(steps, None) is None:
                break
        steps.close()
    return dict(made.graph.nodes[1].network.state_dict())


def test_it_is_trained_and_judged_and_resumed_bit_for_bit(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", [])
    for stops in ([1], [4, 5]):
        parts = trained(tmp_path / f"{stops}", stops)
        assert all(torch.equal(value, parts[name]) for name, value in whole.items()), stops
        assert rows(tmp_path / "whole") == rows(tmp_path / f"{stops}")
    looks = [row["figures"] for row in rows(tmp_path / "whole") if row["kind"] == "validation"]
    assert looks
    assert all({"student", "calmer"} <= look.keys() for look in looks)
    assert looks[0]["calmer"] != looks[-1]["calmer"]  # its factor has moved


def test_it_is_drawn() -> None:
    drawn = {"name": "calmer", "kind": "Rescaled", "learns": True, "of": ["teacher"], "start": 0.5}
    assert drawn in draw([stage()])[0]["nodes"]


NAMED = [("techer", "did you mean 'teacher'"), ("labels", "a Labels; it needs an output")]


@pytest.mark.parametrize(("of", "said"), NAMED)
def test_what_it_names_is_checked(of: str, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        run([stage(of=of)], clusters(), progress=False, device="cpu")
