"""A graph is data: every scheme is a pattern, which is written, read back, and trains the same bit for bit."""

import json
from typing import Any

import pytest
import torch
from torch import nn

from lessen import schemes
from lessen.core.errors import GraphError, SettingError
from lessen.core.settings import decode, encode
from lessen.engine import run
from lessen.graph import Fit, Graph, Labels, Role, Stage
from lessen.graph.draw import draw
from lessen.knowledge import Hint, SoftTargets
from lessen.recipe.catalogue import known
from lessen.schemes import (
    AssistantChain,
    InTurn,
    Mutual,
    Offline,
    Pattern,
    Scheme,
    SelfBranches,
    SelfSnapshot,
    SeveralTeachers,
    Staged,
    Supervised,
    at,
    pattern_of,
)
from lessen.testing.tasks import clusters, perceptron

SHORT: dict[str, Any] = {"steps": 4, "fit": Fit(batch=20, keep_best=False)}
SCHEMES: list[Scheme] = [
    AssistantChain(dense=True, **SHORT),
    Mutual(**SHORT),
    Offline(knowledge=(SoftTargets(), at("layer2", Hint(), weight=0.5)), **SHORT),
    SelfBranches(taps=("layer1",), **SHORT),
    SelfSnapshot(**SHORT),
    SeveralTeachers(**SHORT),
    Staged(hints=(at("layer2", Hint()),), hint_steps=4, **SHORT),
    Supervised(**SHORT),
]
COUNTS = {"students": 2, "assistants": 1, "teachers": 2}


def cast() -> dict[str, Any]:
    several = {name: [perceptron(8, seed=10 * len(name) + n) for n in range(count)] for name, count in COUNTS.items()}
    return {**several, "teacher": several["teachers"][0], "student": several["students"][0]}


def trained(scheme: Scheme) -> list[dict[str, torch.Tensor]]:
    """The state of each network of the cast after the training."""
    networks = cast()
    run(scheme.stages(networks), clusters(), device="cpu", seed=1, progress=False)
    return [module.state_dict() for name in COUNTS for module in networks[name]]


def same(one: list[dict[str, torch.Tensor]], two: list[dict[str, torch.Tensor]]) -> bool:
    pairs = list(zip(one, two, strict=True))
    return all(torch.equal(first[name], second[name]) for first, second in pairs for name in first)


def through_json(pattern: Any) -> Any:
    return decode(json.loads(json.dumps(encode(pattern))), known())


def test_all_schemes_are_here() -> None:
    kinds = {name for name in schemes.__all__ if hasattr(getattr(schemes, name), "card")} - {"Scheme"}
    assert {type(scheme).__name__ for scheme in SCHEMES} == kinds - {"InTurn", "Pattern"}


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: type(scheme).__name__)
def test_a_scheme_is_a_pattern_that_is_written_and_read(scheme: Scheme) -> None:
    pattern = pattern_of(scheme, **COUNTS)
    again = through_json(pattern)
    assert encode(again) == encode(pattern)
    assert draw(again.stages(cast())) == draw(scheme.stages(cast()))
    assert same(trained(again), trained(scheme))


def test_the_law_finds_an_edge_that_is_lost() -> None:
    """A planted error: what was written lacks the last edge."""
    pattern = pattern_of(Offline(**SHORT), **COUNTS)
    assert isinstance(pattern, Pattern)
    less = Pattern(nodes=pattern.nodes, edges=pattern.edges[:-1], **SHORT)
    assert not same(trained(through_json(less)), trained(Offline(**SHORT)))


def test_a_missing_role_is_named() -> None:
    pattern = pattern_of(Mutual(**SHORT), students=2)
    with pytest.raises(SettingError, match=r"needs at least 2 networks as 'students', got 1"):
        pattern.stages({"student": nn.Identity(), "students": [nn.Identity()]})


def test_a_role_is_no_network() -> None:
    pattern = pattern_of(Supervised(**SHORT))
    assert isinstance(pattern, Pattern)
    stage = Stage("bare", Graph(pattern.nodes, pattern.edges), steps=1)
    with pytest.raises(GraphError, match=r"'student' is a role without a network. Put the graph into a Pattern"):
        run([stage], clusters(), device="cpu", progress=False)


def test_a_pattern_needs_edges() -> None:
    with pytest.raises(SettingError, match=r"edges"):
        Pattern(nodes=(Role(name="student", learns=True), Labels()), edges=())
    assert isinstance(pattern_of(Staged(hints=(at("layer2", Hint()),))), InTurn)
