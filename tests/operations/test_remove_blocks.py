"""Blocks taken out: a block that does nothing goes first and leaves no trace; influence against a slow loop."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context, Operation, Plan
from lessen.core.errors import PlanError
from lessen.operations import LowRank, PruneChannels, PruneWeights, Quantize, RemoveBlocks, RemovedBlocks
from lessen.operations.remove_blocks import Skip, block_influence
from lessen.zoo import residual, transformer


def images() -> Tensor:
    return torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("pre_activation", [False, True])
def test_a_block_whose_branch_is_zero_goes_first_and_changes_nothing(pre_activation: bool) -> None:
    torch.manual_seed(0)
    network = residual(width=4, depth=20, pre_activation=pre_activation).double().eval()
    block = network.layer2[1]
    with torch.no_grad():
        for last in (block.conv2,) if pre_activation else (block.norm2,):
            last.weight.zero_()
    x = images().double()
    plan = RemoveBlocks(keep=5 / 7).plan(network, Context(inputs=x))
    assert "layer2.1" in plan.removed
    assert plan.influence["layer2.1"] == pytest.approx(0, abs=1e-12)
    assert min(value for path, value in plan.influence.items() if path != "layer2.1") > 1e-4
    only = RemovedBlocks(removed=["layer2.1"]).apply(network)
    assert torch.allclose(only(x), network(x), rtol=1e-12)
    # The planted error: another block is taken out for it.
    assert not torch.allclose(RemovedBlocks(removed=["layer2.2"]).apply(network)(x), network(x), rtol=1e-3)


def test_blocks_that_change_the_shape_stay_and_are_named() -> None:
    plan = RemoveBlocks(keep=0.0).plan(residual(width=4, depth=14).eval(), Context(inputs=images()))
    assert plan.removed == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    assert plan.left["layer2.0"] == "it turns 4x28x28 into 8x14x14"
    rows = {row["module"]: row for row in plan.describe()}
    assert rows["layer2.0"]["edit"] == "left alone"
    assert rows["layer1.1"]["edit"] == "remove block"


@pytest.mark.parametrize("shape", [(3, 4, 5, 5), (3, 7, 4), (3, 4)])
def test_influence_is_one_minus_the_cosine_of_each_position(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    before, after = torch.randn(shape), torch.randn(shape)
    before[0] = after[0] = 0
    found = block_influence(before, after)
    for n in range(3):
        a, b = before[n], after[n]
        if a.ndim == 3:
            a, b = a.flatten(1).T, b.flatten(1).T
        pairs = list(zip(a.reshape(-1, 4), b.reshape(-1, 4), strict=True))
        slow = [
            0.0 if not one.any() and not other.any() else 1 - float(F.cosine_similarity(one, other, 0))
            for one, other in pairs
        ]
        assert float(found[n]) == pytest.approx(sum(slow) / len(slow), abs=1e-6)
    # The planted error: one cosine over the whole example.
    if len(shape) > 2:
        whole = 1 - F.cosine_similarity(before.flatten(1), after.flatten(1), 1)
        assert not torch.allclose(whole[1:], found[1:], atol=1e-3)


def test_the_least_influence_on_the_calibration_examples_goes() -> None:
    torch.manual_seed(0)
    network, x = transformer(depth=4).eval(), images()
    batches = [Batch(part, torch.arange(len(part))) for part in x.split(4)]
    plan = RemoveBlocks(keep=0.5, where="blocks.*").plan(network, Context(inputs=x[:2], calibration=batches))
    seen: dict[str, list[Tensor]] = {f"blocks.{i}": [] for i in range(4)}
    for i, block in enumerate(network.blocks):
        block.register_forward_hook(
            lambda module, args, output, i=i: seen[f"blocks.{i}"].append(block_influence(args[0], output))
        )
    with torch.no_grad():
        network(x)
    slow = {path: float(torch.cat(values).mean()) for path, values in seen.items()}
    assert plan.influence == pytest.approx(slow, rel=1e-4)
    assert sorted(plan.removed) == sorted(sorted(slow, key=slow.__getitem__)[:2])


class Counting(nn.Module):
    """Reads something of its blocks, runs one twice, and gives a tuple from another."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks[0](self.blocks[0](x))
        assert len(self.blocks[1][0].weight)
        return self.blocks[2](self.blocks[1](x))


def test_what_is_called_twice_or_read_from_outside_stays() -> None:
    plan = RemoveBlocks(keep=0.0).plan(Counting().eval(), Context(inputs=torch.randn(2, 4)))
    assert plan.left["blocks.0"] == "it is called 2 times per pass, not once"
    assert "without it the network does not run" in plan.left["blocks.1"]
    assert plan.removed == ["blocks.2"]


def test_stages_and_parts_of_blocks_are_not_blocks() -> None:
    def layer() -> nn.Sequential:
        return nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    stage = nn.Sequential(layer(), layer())
    block = nn.Sequential(layer(), nn.LayerNorm(4))  # holds one thing that keeps the shape
    network = nn.Sequential(nn.Linear(3, 4), stage, block).eval()
    plan = RemoveBlocks(keep=0.0).plan(network, Context(inputs=torch.randn(2, 3)))
    assert sorted(plan.removed) == ["1.0", "1.1", "2"]


def test_nothing_to_remove_is_said() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with pytest.raises(PlanError, match="No block is selected"):
        RemoveBlocks().plan(network, Context(inputs=torch.randn(2, 4)))
    narrowing = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.ReLU())).eval()
    with pytest.raises(PlanError, match=r"No block can be removed\. The first, 0: it turns 4 into 3"):
        RemoveBlocks().plan(narrowing, Context(inputs=torch.randn(2, 4)))
    with pytest.raises(PlanError, match="does not belong to this network"):
        RemovedBlocks(removed=["layer9.0"]).apply(network)


@pytest.mark.parametrize(
    "other",
    [PruneChannels(), PruneWeights(keep=0.4), LowRank(rank=2), Quantize(weight_bits=8)],
    ids=lambda o: type(o).__name__,
)
def test_with_another_operation_in_both_orders(other: Operation) -> None:
    x = images()
    context = Context(inputs=x, calibration=[Batch(x, torch.arange(6), torch.arange(6))])
    for first, then in ((RemoveBlocks(), other), (other, RemoveBlocks())):
        network = residual(width=4, depth=14).eval()
        plans: list[Plan] = [first.plan(network, context)]
        plans.append(then.plan(plans[0].apply(network), context))
        twice = plans[1].apply(plans[0].apply(network)).eval()
        assert sum(isinstance(module, Skip) for module in twice.modules()) == 2
        again = residual(width=4, depth=14)
        for plan in plans:
            again = plan.apply(again, values=False)
        again.load_state_dict(twice.state_dict(), strict=True)
        assert torch.equal(again.eval()(x), twice(x))
        if isinstance(other, PruneChannels):
            assert twice.stem.out_channels == 2
