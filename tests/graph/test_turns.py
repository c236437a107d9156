"""Nodes that move in turns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lessen.core.errors import GraphError, SettingError
from lessen.core.identity import identify
from lessen.engine.states import state_of_optimizer
from lessen.engine.training import Training
from lessen.graph import (
    AdamW,
    Average,
    Branch,
    Edge,
    Fit,
    Gradual,
    Graph,
    GroupLasso,
    Labels,
    LastStep,
    Snapshot,
    Stage,
    StraightThrough,
    Turns,
    validate,
)
from lessen.graph.draw import draw
from lessen.knowledge import CrossEntropy, Hint, SoftTargets, WidthBridge
from lessen.surgery.taps import Tap
from lessen.testing.graphs import BATCH, check_resume, learner, quiet, rows
from lessen.testing.tasks import clusters

TURNS = Turns(of=(("a", 1), (("b", "c"), 2)))


def stage(turns: Turns | None = TURNS, **fit: Any) -> Stage:
    """Three networks; a has an exit, and an edge with a bridge arrives at b."""
    nodes = [
        Labels(),
        learner(quiet(8, 1), "a", optimizer=AdamW()),
        learner(quiet(8, 2), "b"),
        learner(quiet(8, 3), "c"),
        Branch(name="exit", of="a", tap=Tap(path="norm")),
        Snapshot(name="before", of="b", when=LastStep()),
        learner(quiet(8, 4), "always"),
    ]
    edges = [
        Edge(source="labels", target="a", objective=CrossEntropy()),
        Edge(source="labels", target="exit", objective=CrossEntropy()),
        Edge(source="a", target="b", objective=Hint(), source_tap="norm", target_tap="layer2", bridge=WidthBridge()),
        Edge(source="before", target="b", objective=SoftTargets()),
        Edge(source="labels", target="c", objective=CrossEntropy()),
        Edge(source="c", target="a", objective=SoftTargets(), to_source=True),
        Edge(source="labels", target="always", objective=CrossEntropy()),
    ]
    given = {"batch": 16, "keep_best": False, **fit}
    return Stage(name="turns", graph=Graph(nodes=nodes, edges=edges), epochs=3, fit=Fit(**given), turns=turns)


def held(training: Training, name: str) -> dict[str, Tensor]:
    """Copies of the weights of a node, of what learns with it, and of all that its optimizer remembers."""
    owner = training.flow.owners[name]
    tensors, numbers = state_of_optimizer(training.optimizers[name])
    assert numbers["state"] or not tensors
    return {key: value.detach().clone() for key, value in {**owner.named, **tensors}.items()}


FITS: list[dict[str, Any]] = [
    {},
    {"accumulate": 2},
    {"average": Average()},
    {"sparsify": StraightThrough(keep=0.5)},
    {"sparsify": Gradual(keep=0.5)},
    {"sparsify": GroupLasso(strength=0.1)},
]


@pytest.mark.parametrize("fit", FITS)
def test_what_waits_stays_bit_for_bit(fit: dict[str, Any]) -> None:
    made = stage(**fit)
    training = Training(made, 0, clusters(), seed=0, device="cpu")
    moved: dict[str, list[bool]] = {name: [] for name in ("a", "b", "c", "always")}
    for _ in range(7):
        before = {name: held(training, name) for name in moved}
        training.advance()
        for name, was in before.items():
            now = held(training, name)
            same = was.keys() == now.keys() and all(torch.equal(value, now[key]) for key, value in was.items())
            moved[name].append(not same)
    training.close()
    ours = [True, False, False] * 2 + [True]
    assert moved == {"a": ours, "b": [not one for one in ours], "c": [not one for one in ours], "always": [True] * 7}


def test_the_average_of_what_waits_goes_on() -> None:
    """By hand: every average moves at every step, towards weights that wait as well."""
    training = Training(stage(average=Average(decay=0.7, warmup=False)), 0, clusters(), seed=0, device="cpu")
    assert training.averages is not None
    modules = {node.name: node.network for node in training.stage.graph.nodes if node.network is not None}
    mean = {(n, key): value.clone() for n in "abc" for key, value in modules[n].named_parameters()}
    waited = 0
    for _ in range(6):
        training.advance()
        for (name, key), value in mean.items():
            mean[name, key] = (0.7 * value + 0.3 * modules[name].get_parameter(key)).detach()
            now = training.averages.mean[f"{name}/network/{key}"]
            torch.testing.assert_close(now, mean[name, key])
            waited += name in training.waiting and not torch.equal(now, modules[name].get_parameter(key))
    training.close()
    assert waited


def test_without_turns_all_move() -> None:
    training = Training(stage(None), 0, clusters(), seed=0, device="cpu")
    before = {name: held(training, name) for name in "abc"}
    training.advance()
    now = {name: held(training, name) for name in "abc"}
    assert all(any(not torch.equal(value, now[n][key]) for key, value in was.items()) for n, was in before.items())
    training.close()


def test_edges_that_move_only_what_waits_are_not_computed() -> None:
    training = Training(stage(), 0, clusters(), seed=0, device="cpu")
    buffers = training.stage.graph.nodes[2].network.norm.running_mean  # type: ignore[union-attr]
    was = buffers.clone()  # type: ignore[union-attr, operator]
    training.advance()
    assert torch.equal(was, buffers)  # type: ignore[arg-type]
    for _ in range(2):
        training.advance()
    training.log.flush()
    training.close()
    found = training.log.last
    assert found is not None
    # c -> a moves c, its source, as well.
    assert set(found["edges"]) == {"a->b:norm>layer2", "before->b", "labels->c", "c->a", "labels->always"}
    assert set(found["rate"]) == {"b", "c", "always"}


@pytest.mark.parametrize("stops", [(1, 1), (2, 3)])
def test_a_run_is_resumed_in_the_middle_of_a_turn(stops: tuple[int, int], tmp_path: Path) -> None:
    check_resume(lambda: stage(checkpoint_steps=1), tmp_path, stops=stops)
    steps = [set(row["rate"]) for row in rows(tmp_path / "whole") if row["kind"] == "step"]
    assert steps[:4] == [{"a", "always"}, {"b", "c", "always"}, {"b", "c", "always"}, {"a", "always"}]


def test_it_is_drawn_and_part_of_the_identity() -> None:
    assert draw([stage()])[0]["turns"] == [["a", 1], [("b", "c"), 2]]
    assert "turns" not in draw([stage(None)])[0]
    assert "turns" not in identify(stage(None))
    assert "turns" in identify(stage())


WRONG: list[tuple[Any, str]] = [
    ("labels", "names 'labels', a Labels; it needs a node that can learn"),
    ("exit", "names 'exit', which moves with 'a'. Name 'a'"),
    ("before", "it needs a node that can learn"),
    (("a", "d"), "There is no node 'd'"),
]


@pytest.mark.parametrize(("names", "said"), WRONG)
def test_what_cannot_take_turns_is_named(names: Any, said: str) -> None:
    with pytest.raises(GraphError, match=said):
        validate(stage(Turns(of=((names, 1),))), BATCH)


def test_a_turn_has_steps() -> None:
    for wrong in ((), (("a", 0),)):
        with pytest.raises(SettingError, match="Turns"):
            Turns(of=wrong)  # type: ignore[arg-type]
