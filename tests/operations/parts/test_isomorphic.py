"""Ranking only among groups that are built alike: against sorting by hand, and against a ranking over all."""

import torch

from lessen.core import Context
from lessen.operations import Global, Isomorphic, PruneChannels
from lessen.operations.parts.allocation import Allocation
from lessen.operations.parts.isomorphic import AmongKinds, kinds_of
from lessen.surgery.coupling import analyse
from lessen.zoo import residual, transformer


def test_channels_compete_within_their_kind_only() -> None:
    scores = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([5.0, 6.0]), "c": torch.tensor([10.0, 20.0])}
    allocation = Isomorphic()
    assert isinstance(allocation, AmongKinds)
    among = allocation.among({"a": "inner", "b": "inner", "c": "stream"})
    assert isinstance(among, Allocation)
    assert among.counts(scores, 0.5) == {"a": 1, "b": 2, "c": 1}
    # The planted error: rank over all, and one kind crowds out the other.
    assert Global().counts(scores, 0.5) == {"a": 0, "b": 2, "c": 2}


def test_kinds_of_a_residual_network() -> None:
    network = residual(width=8, depth=20)
    kinds = kinds_of(network, analyse(network, torch.rand(2, 1, 28, 28)))
    inner = {kinds[name] for name in kinds if name.endswith("conv1")}
    assert len(inner) == 1, "the inner channels of all blocks, whatever their width"
    assert kinds["stem"] not in inner
    assert kinds["layer2.0.conv2"] not in inner


def test_kinds_of_a_transformer() -> None:
    network = transformer(depth=3)
    kinds = kinds_of(network, analyse(network, torch.rand(2, 1, 28, 28)))
    by_kind: dict[object, int] = {}
    for kind in kinds.values():
        by_kind[kind] = by_kind.get(kind, 0) + 1
    assert sorted(by_kind.values()) == [1, 3, 3], "one stream, the heads and the wide layers of three blocks"


def test_every_kind_keeps_the_share_that_meets_the_target() -> None:
    network, x = residual(width=8, depth=14), torch.rand(2, 1, 28, 28)
    with torch.no_grad():
        network.layer1[0].conv1.weight.mul_(0.01)
    plan = PruneChannels(multiply_adds=0.5, allocation=Isomorphic()).plan(network, Context(inputs=x))
    assert plan.multiply_adds[1] <= 0.5 * plan.multiply_adds[0]
    inner = [name for name in plan.sizes if name.endswith("conv1")]
    kept = sum(len(plan.kept[name]) for name in inner) / sum(plan.sizes[name] for name in inner)
    streams = [name for name in plan.sizes if name not in inner]
    assert abs(kept - sum(len(plan.kept[n]) for n in streams) / sum(plan.sizes[n] for n in streams)) < 0.1
