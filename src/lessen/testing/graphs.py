"""What tests of graphs share: small nodes, one pass, and a run that is stopped and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core import Batch, Data
from lessen.core.files import read_lines
from lessen.engine import Course
from lessen.graph import Edge, Flow, Graph, Network, Stage
from lessen.graph.draw import draw
from lessen.testing.tasks import clusters, perceptron

BATCH = clusters().train.fetch(torch.arange(16))


def quiet(hidden: int = 8, seed: int = 1, *, features: int = 8, classes: int = 4) -> nn.Sequential:
    """Without dropout, so that a pass can be repeated by hand."""
    network = perceptron(hidden, seed=seed, features=features, classes=classes)
    network.dropout = nn.Identity()
    return network


def learner(module: nn.Module, name: str = "student", **more: Any) -> Network:
    """A network that learns."""
    return Network(name=name, module=module, learns=True, **more)


def frozen(module: nn.Module, name: str = "teacher", **more: Any) -> Network:
    """A frozen network."""
    return Network(name=name, module=module, learns=False, **more)


def flow_of(nodes: Sequence[Any], edges: Sequence[Edge], batch: Batch = BATCH, **graph: Any) -> Flow:
    """A graph made ready, in train mode."""
    made = Flow(Stage(name="s", graph=Graph(nodes=nodes, edges=edges, **graph), epochs=1), batch)
    made.set_mode(training=True)
    return made


def gradients(module: nn.Module) -> list[Tensor | None]:
    """Copies of the gradients of all weights."""
    return [None if p.grad is None else p.grad.clone() for p in module.parameters()]


def rows(folder: Path) -> list[dict[str, Any]]:
    """The log of a run without what depends on the clock."""
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_lines(folder / "log.jsonl")]


def trained(make: Callable[[], Stage], folder: Path, stops: Sequence[int], data: Data | None = None) -> dict[str, Any]:
    """The weights of all networks after a run that is left after so many steps, and resumed."""
    for stop in [*stops, 10**6]:
        made = make()
        course = Course([made], data or clusters(), folder=folder, device="cpu", resume=True)
        steps = course.steps()
        for _ in range(stop):
            if next(steps, None) is None:
                break
        steps.close()
    given = [(node.name, node.network) for node in made.graph.nodes]
    return {f"{name}.{key}": v for name, own in given if own is not None for key, v in own.state_dict().items()}


def check_resume(
    make: Callable[[], Stage], folder: Path, data: Data | None = None, stops: Sequence[int] = (3, 4)
) -> dict[str, Any]:
    """A run in three parts ends as the whole one, bit for bit, with the same log; what it ends with."""
    whole = trained(make, folder / "whole", [], data)
    parts = trained(make, folder / "parts", stops, data)
    assert all(torch.equal(value, parts[name]) for name, value in whole.items())
    assert rows(folder / "whole") == rows(folder / "parts")
    return whole


def drawn_nodes(stage: Stage) -> dict[str, Any]:
    """What is drawn of the nodes, by name; it must be JSON data."""
    found: dict[str, Any] = {node["name"]: node for node in json.loads(json.dumps(draw([stage])[0]["nodes"]))}
    return found
