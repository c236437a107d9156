"""What a step costs with the network left out: calls and writes are counted, since a busy machine changes times."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import pytest
import torch
from torch import nn

import lessen
from lessen.core import ArrayExamples, Data
from lessen.core.errors import DataError
from lessen.engine import Course
from lessen.engine.log import read_log
from lessen.graph import SGD, Adam, Cache, Constant, Edge, Fit, Graph, Labels, LastEpoch, Network, Snapshot, Stage
from lessen.knowledge import CrossEntropy, SoftTargets

SOURCES = str(Path(lessen.__file__).parent)


def data() -> Data:
    drawn = torch.Generator().manual_seed(0)
    x, y = torch.randn(64, 6, generator=drawn), torch.randint(0, 3, (64,), generator=drawn)
    few = ArrayExamples(x[:8], y[:8])
    return Data(train=ArrayExamples(x, y), validation=few, test=few, classes=("a", "b", "c"))


def course(nodes: list[object], edges: list[Edge], folder: Path | None = None, **fit: object) -> Course:
    calm = {"clip": None, "restarts": 0}
    how = {"batch": 16, "schedule": Constant(), "validate_every": 1000, "checkpoint_steps": 1000, **calm, **fit}
    stage = Stage(name="s", graph=Graph(nodes=nodes, edges=edges), epochs=30, fit=Fit(**how))
    return Course([stage], data(), device="cpu", seed=0, folder=folder)


def labels_to(name: str) -> Edge:
    return Edge(source="labels", target=name, objective=CrossEntropy())


def supervised() -> tuple[list[object], list[Edge]]:
    return [Labels(), Network(name="n", module=nn.Linear(6, 3), learns=True)], [labels_to("n")]


def mutual() -> tuple[list[object], list[Edge]]:
    networks = [Network(name=name, module=nn.Linear(6, 3), learns=True) for name in "ab"]
    soft = [Edge(source=s, target=t, objective=SoftTargets(temperature=1.0)) for s, t in ("ab", "ba")]
    return [Labels(), *networks], [labels_to("a"), labels_to("b"), *soft]


def cached() -> tuple[list[object], list[Edge]]:
    nodes, edges = supervised()
    nodes.append(Network(name="t", module=nn.Linear(6, 3), learns=False, cache=Cache()))
    return nodes, [*edges, Edge(source="t", target="n", objective=SoftTargets())]


@pytest.mark.parametrize(("make", "most"), [(supervised, 70), (mutual, 144), (cached, 98)])
def test_a_step_makes_few_calls_of_our_own(make, most: int, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    steps = course(*make(), folder=tmp_path).steps()
    for _ in range(10):
        next(steps)
    count = 0

    def called(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(SOURCES)

    before = sys.getprofile()
    sys.setprofile(called)
    try:
        for _ in range(50):
            next(steps)
    finally:
        sys.setprofile(before)
    steps.close()
    assert count / 50 <= most


def test_short_epochs_share_a_block_of_the_log_and_no_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    found = []
    for _ in course(*supervised(), folder=tmp_path).steps():
        found.append(len(path.read_text().splitlines()) if path.exists() else 0)
    assert found == [1] * 49 + [51] * 50 + [101] * 20 + [122]
    steps = [row["step"] for row in read_log(path) if row["kind"] == "step"]
    assert steps == list(range(120))


def test_a_snapshot_is_never_taken_of_weights_that_are_not_finite() -> None:
    nodes, edges = supervised()
    nodes.append(Snapshot(name="e", of="n", when=LastEpoch()))
    edges.append(Edge(source="e", target="n", objective=SoftTargets()))
    steps = course(nodes, edges).steps()
    for _ in range(3):
        training = next(steps)
    with torch.no_grad():
        nodes[1].module.weight.fill_(float("inf"))  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="step 3"):
        next(steps)
    assert all(value.isfinite().all() for value in training.followers[0].module.state_dict().values())


@pytest.mark.parametrize("optimizer", [SGD(), Adam()])
def test_on_the_cpu_an_optimizer_does_not_ask_in_each_step_whether_there_is_a_gpu(optimizer: object) -> None:
    steps = course(*supervised(), optimizer=optimizer).steps()
    training = next(steps)
    assert [group["foreach"] for group in training.optimizers["n"].param_groups] == [False]
    steps.close()
