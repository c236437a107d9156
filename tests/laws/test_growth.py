"""Work for each layer does not grow with depth: counted in calls of Python functions, so that no clock decides.

Three networks are as deep as an arithmetic progression. Where the work is a + b * depth, its two differences are equal;
a walk over the whole network for each layer makes the second one larger.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lessen.core import Batch, Context, Operation
from lessen.measure.timing import no_collection
from lessen.operations import Quantize, QuantizeWeights
from lessen.operations.parts.walk import Walk
from lessen.operations.quantize.rounding import Brecq, QDrop
from lessen.surgery.fold import foldable
from lessen.surgery.forms.places import owners
from lessen.surgery.modules import set_module
from lessen.testing.catalogue import exported
from lessen.zoo import residual

DEPTHS = (8, 20, 32)
SLACK = 0.01

LINEAR = exported()
LINEAR["QuantizeWeights, nearest"] = QuantizeWeights(group=4)
LINEAR["Quantize, Brecq"] = Quantize(rounding=Brecq(steps=2))
LINEAR["Quantize, QDrop"] = Quantize(rounding=QDrop(steps=2))


def context() -> Context:
    torch.manual_seed(0)
    inputs = torch.randn(2, 1, 4, 4)
    batch = Batch(inputs, torch.arange(2), torch.zeros(2, dtype=torch.long))
    return Context(inputs=inputs, calibration=[batch], loss=lambda a, b: F.cross_entropy(a, b, reduction="none"))


def calls_of(work: Callable[[], Any]) -> int:
    """How many functions of Python are called."""
    count = 0

    def seen(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event == "call"

    known = sys.getprofile()
    sys.setprofile(seen)
    threading.setprofile(seen)  # threads that start from here on
    try:
        with no_collection():  # the collector calls back functions of Python, whenever it likes
            work()
    finally:
        threading.setprofile(None)  # type: ignore[arg-type]
        sys.setprofile(known)
    return count


def bend(work: Callable[[nn.Module], Any]) -> float:
    """By how much more the work grows from the second network to the third than from the first to the second."""
    networks = [residual(width=2, depth=depth).eval() for depth in DEPTHS]
    work(residual(width=2, depth=8).eval())  # what is only done once in a process
    first, second, third = (calls_of(lambda network=network: work(network)) for network in networks)
    return (third - second) / (second - first) - 1


@pytest.mark.parametrize("name", LINEAR)
def test_work_for_each_layer_does_not_grow_with_depth(name: str) -> None:
    operation: Operation = LINEAR[name] if name != "Half1" else type(LINEAR[name])(kind=LINEAR[name].kind)
    given = context()

    def work(network: nn.Module) -> None:
        plan = operation.plan(network, given)
        plan.apply(network)
        plan.apply(network, values=False)

    assert bend(work) <= SLACK


def walk_for_each_layer(network: nn.Module) -> None:
    for pair in foldable(network, context().inputs):
        owners(network, network.get_submodule(pair[0]).weight)


def replace_one_by_one(network: nn.Module) -> None:
    for _, norm in foldable(network, context().inputs):
        set_module(network, norm, nn.Identity())


def test_a_pass_for_each_layer_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted error: what sequential operations did."""
    go = Walk.go

    def anew(self: Walk[Any], wanted: Any) -> list[Any]:
        self._stale = True
        return go(self, wanted)

    monkeypatch.setattr(Walk, "go", anew)
    operation, given = LINEAR["PruneByReconstruction"], context()
    assert bend(lambda network: operation.plan(network, given)) > 5 * SLACK


@pytest.mark.parametrize("work", [walk_for_each_layer, replace_one_by_one])
def test_a_walk_for_each_layer_would_be_seen(work: Callable[[nn.Module], None]) -> None:
    """The planted error: what `Quantize` did for each batch normalisation."""
    assert bend(work) > 5 * SLACK
