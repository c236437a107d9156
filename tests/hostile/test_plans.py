"""A plan from a file sets only what an operation can have decided, and asks for no more memory than the network."""

import copy
import json
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

from lessen.core import Batch, Context
from lessen.core.bounds import bounded
from lessen.core.errors import LessenError, NetworkError, PlanError
from lessen.operations import (
    Half,
    LowRank,
    PruneChannels,
    PruneWeights,
    Quantize,
    QuantizeDynamic,
    QuantizeWeights,
    Reinitialize,
    RemoveBlocks,
)
from lessen.pipeline.plans import decode_plans, encode_plans, follow
from lessen.zoo import residual

OPERATIONS: dict[str, Any] = {
    "channels": PruneChannels(keep=0.5),
    "weights": PruneWeights(keep=0.5),
    "half": Half(),
    "low rank": LowRank(rank=2),
    "quantize": Quantize(),
    "dynamic": QuantizeDynamic(),
    "codes": QuantizeWeights(bits=4),
    "blocks": RemoveBlocks(keep=0.5),
    "fresh": Reinitialize(),
}
STRANGE = (2**40, 10**30, -1, 0, 1.5, True, None, "x", "", [], [2**40], {}, {"x": 2**40}, [[2**40]])
TRIES = int(os.environ.get("TRIES", "60"))
"""For each operation."""
ROOM = 4 << 20
"""Bytes: fifty times those of the network."""


def network() -> nn.Module:
    return residual(width=4, depth=14).eval()


@pytest.fixture(scope="module")
def plans() -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(4, 1, 8, 8)
    context = Context(inputs=x, calibration=[Batch(x, torch.zeros(4, dtype=torch.int64))])
    return {name: encode_plans([one.plan(network(), context)]) for name, one in OPERATIONS.items()}


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where data has a value, at most three of one list or mapping."""
    yield path
    items = list(data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ())
    for key, value in items if len(path) <= 2 else items[:3]:
        yield from places(value, (*path, key))


def put(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(data)
    here = made
    for key in path[:-1]:
        here = here[key]
    here[path[-1]] = value
    return made


def attributes(model: nn.Module) -> dict[str, set[str]]:
    return {path: set(vars(module)) for path, module in model.named_modules()}


@pytest.mark.parametrize("name", OPERATIONS)
def test_forged_numbers_are_one_error_and_take_no_memory(name: str, plans: dict[str, Any]) -> None:
    model, said = network(), []
    follow(model, decode_plans(plans[name]), "here")
    tries = [(path, value) for path in places(plans[name]) if path for value in STRANGE]
    for path, value in random.Random(0).sample(tries, min(len(tries), TRIES)):
        try:
            with bounded(ROOM, NetworkError, "too much memory"):
                follow(model, decode_plans(put(plans[name], path, value)), "here")
        except LessenError as error:
            said.append(f"{path} = {value!r}: {error}")
    assert not [text for text in said if "too much memory" in text]
    assert len(said) > min(len(tries), TRIES) / 4


@pytest.mark.parametrize(
    "edit",
    [
        {"module": "layer1", "attribute": "_forward_hooks", "before": {}, "after": {"0": "x"}},
        {"module": "layer1", "attribute": "_compiled_call_impl", "before": None, "after": "x"},
        {"module": "layer1", "attribute": "anything", "before": None, "after": "x"},
        {"module": "", "attribute": "training", "before": False, "after": True},
        {"module": "stem", "attribute": "forward", "before": 1, "after": 1},
        {"module": "stem", "attribute": "__class__", "before": 4, "after": 2},
        {"module": "stem", "attribute": "out_channels", "before": 4, "after": 2**40},
        {"module": "stem", "attribute": "out_channels", "before": 4, "after": 0},
        {"module": "stem", "attribute": "out_channels", "before": 4, "after": [2]},
        {"module": "stem", "attribute": "kernel_size", "before": [3, 3], "after": [3, "x"]},
        {"module": "stem", "attribute": "kernel_size", "before": [3, 3], "after": [3]},
        {"module": "stem", "attribute": "padding_mode", "before": "zeros", "after": "circular"},
        {"module": "stem", "attribute": "out_channels", "before": 4},
    ],
    ids=lambda edit: f"{edit['attribute']} to {json.dumps(edit.get('after'))}",
)
def test_an_edit_sets_only_sizes(edit: dict[str, Any], plans: dict[str, Any]) -> None:
    forged = copy.deepcopy(plans["channels"])
    fields = next(iter(forged[0].values()))
    fields.update(layouts={}, edits=[edit])
    with pytest.raises(PlanError):
        follow(network(), decode_plans(forged), "here")


def test_groups_that_nothing_uses_take_no_memory(plans: dict[str, Any]) -> None:
    forged = copy.deepcopy(plans["channels"])
    fields = next(iter(forged[0].values()))
    fields["sizes"]["x"], fields["kept"]["x"] = 2_000_000_000, [0]
    with bounded(ROOM, NetworkError, "too much memory"):
        made = follow(network(), decode_plans(forged), "here")
    assert attributes(made) == attributes(follow(network(), decode_plans(plans["channels"]), "here"))


def test_the_limit_is_seen_to_refuse() -> None:
    with pytest.raises(NetworkError, match="needs more"), bounded(ROOM, NetworkError, "it"):
        torch.zeros(2**30)
    with pytest.raises(NetworkError, match="needs more"), bounded(ROOM, NetworkError, "it"):
        nn.Linear(10_000, 10_000)


def test_more_plans_than_a_chain_has_are_refused(plans: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match="are allowed"):
        decode_plans(plans["half"] * 1000)
