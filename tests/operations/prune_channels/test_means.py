"""What removed channels add on average stays: exact where they hold one number, right on the mean where they do not."""

import json

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context, decode, encode
from lessen.core.errors import PlanError
from lessen.operations import BatchNormScale, PruneChannels, PrunedChannels
from lessen.operations.parts.values import without_values
from lessen.testing import EXAMPLES, OperationLaws


class TestWithMeans(OperationLaws):
    networks = {name: EXAMPLES[name] for name in ("convolutions", "attention")}
    settings = (PruneChannels(keep=0.75, keep_means=True), PruneChannels(keep=0.5, keep_means=True))


def network(*, bias: bool, norm: int) -> nn.Sequential:
    """A first layer half of whose channels are constant behind their normalisation: gamma = 0, relu(beta) > 0."""
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, bias=bias),
        nn.BatchNorm2d(6) if norm == 1 else nn.Sequential(*(nn.BatchNorm2d(6) for _ in range(norm))),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 5),
    )
    for layer in made.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)
            nn.init.uniform_(layer.running_var, 0.5, 2)
            nn.init.uniform_(layer.weight, 0.5, 2)
            nn.init.normal_(layer.bias)
    with torch.no_grad():
        made[1].weight[::2] = 0
        made[1].bias[::2] = 3.0
    return made.double().eval()


def images() -> Tensor:
    return torch.rand(16, 1, 9, 9, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(
    ("bias", "norm", "carrier"),
    [(True, 1, "3.bias"), (True, 0, "3.bias"), (False, 1, "4.running_mean"), (False, 2, "4.0.running_mean")],
)
def test_a_constant_channel_leaves_no_trace(bias: bool, norm: int, carrier: str) -> None:
    whole, x = network(bias=bias, norm=norm), images()
    prune = PruneChannels(keep=0.5, score=BatchNormScale(), where="0", keep_means=True)
    plan = prune.plan(whole, Context(inputs=x[:2]))
    assert plan.kept == {"0": [1, 3, 5, 7]}
    assert plan.carries == [carrier]
    small = plan.apply(whole)
    assert torch.allclose(small(x), whole(x), rtol=1e-10)
    # The planted error, as when the residue is forgotten.
    forgotten = (
        PruneChannels(keep=0.5, score=BatchNormScale(), where="0").plan(whole, Context(inputs=x[:2])).apply(whole)
    )
    assert not torch.allclose(forgotten(x), whole(x), rtol=1e-2)


def test_any_channel_leaves_its_mean() -> None:
    """What the layer that reads gives keeps its mean over the calibration examples; all places count alike."""
    whole, x = network(bias=True, norm=0), images()
    whole[3] = nn.Conv2d(8, 6, 1).double()
    with torch.no_grad():
        whole[1].weight.uniform_(0.5, 2)
    batches = [Batch(part, torch.arange(len(part))) for part in x.split(5)]
    plan = PruneChannels(keep=0.5, where="0", keep_means=True).plan(whole, Context(inputs=x[:2], calibration=batches))
    small, plain = plan.apply(whole), plan.apply(whole, values=False)
    wanted = whole[:4](x).mean((0, 2, 3))
    assert torch.allclose(small[:4](x).mean((0, 2, 3)), wanted, rtol=1e-9)
    assert not torch.allclose(plain[:4](x).mean((0, 2, 3)), wanted, rtol=1e-2)


def test_outputs_that_are_pruned_as_well_fit() -> None:
    whole, x = network(bias=False, norm=1), images()
    plan = PruneChannels(keep=0.5, keep_means=True).plan(whole, Context(inputs=x[:2]))
    assert set(plan.kept) == {"0", "3"}
    assert plan.carries == ["4.running_mean", "8.bias"]
    assert plan.apply(whole)[4].running_mean.shape == (3,)


def test_the_values_travel_in_the_plan_or_in_the_weights() -> None:
    whole, x = network(bias=True, norm=1), images()
    plan = PruneChannels(keep=0.5, keep_means=True).plan(whole, Context(inputs=x[:2]))
    again = decode(json.loads(json.dumps(encode(plan))), {"PrunedChannels": PrunedChannels})
    assert torch.equal(again.apply(whole)(x), plan.apply(whole)(x))
    bare = without_values(plan)
    with pytest.raises(PlanError, match="stored in the weights"):
        bare.apply(whole)
    fresh = bare.apply(whole, values=False)
    fresh.load_state_dict(plan.apply(whole).state_dict(), strict=True)
    assert torch.equal(fresh(x), plan.apply(whole)(x))


def test_a_reader_that_can_carry_nothing_is_named() -> None:
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4, bias=False), nn.Tanh(), nn.Linear(4, 2)).eval()
    plan = PruneChannels(keep=0.5, where="0", keep_means=True).plan(whole, Context(inputs=torch.rand(2, 3)))
    assert plan.carries == []
    (row,) = [row for row in plan.describe() if row["edit"] == "means are lost"]
    assert row["module"] == "2"
    assert "has no bias" in row["before"]
