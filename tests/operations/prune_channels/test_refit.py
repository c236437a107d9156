"""Layers that lose inputs are fitted again: by the formula, in the order in which they run, and never to the worse."""

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Batch, Context
from lessen.core.errors import PlanError, SettingError
from lessen.operations import PruneChannels
from lessen.operations.prune_channels.refit import RIDGE
from lessen.testing import EXAMPLES, OperationLaws


class TestFittedAgain(OperationLaws):
    networks = {name: EXAMPLES[name] for name in ("convolutions", "attention")}
    settings = (PruneChannels(keep=0.75, refit=True), PruneChannels(keep=0.5, refit=True))


def context(inputs: Tensor, size: int = 16) -> Context:
    parts = inputs.split(size)
    return Context(inputs=inputs[:2], calibration=[Batch(part, torch.arange(len(part))) for part in parts])


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double().eval()


def test_it_is_the_least_squares_of_the_formula() -> None:
    """Both readers by hand: the second is given what the pruned and fitted first one gives."""
    whole, x = perceptron(), torch.randn(64, 6, generator=torch.Generator().manual_seed(1)).double()
    plan = PruneChannels(keep=0.5, refit=True).plan(whole, context(x))
    plain = PruneChannels(keep=0.5).plan(whole, context(x)).apply(whole)
    small = plan.apply(whole)
    rows_PI = plain[:2](x)
    for at, kept in ((2, plan.kept["2"]), (4, [0, 1, 2])):
        ones = torch.ones(len(x), 1).double()
        given = torch.cat([rows_PI, ones], 1)
        before = torch.cat([plain[at].weight, plain[at].bias[:, None]], 1).T
        hold = RIDGE * (given.T @ given).diagonal().mean() * torch.eye(given.shape[1]).double()
        wanted = whole[: at + 1](x)[:, kept]
        by_hand = torch.linalg.solve(given.T @ given + hold, given.T @ wanted + hold @ before).T
        assert torch.allclose(small[at].weight, by_hand[:, :-1], rtol=1e-8, atol=1e-10)
        assert torch.allclose(small[at].bias, by_hand[:, -1], rtol=1e-8, atol=1e-10)
        rows_PI = small[: at + 2](x)
    assert torch.equal(small[0].weight, plain[0].weight)  # it lost no inputs


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_what_others_can_say_in_its_place_is_not_lost(mode: str) -> None:
    """Each channel has a twin. With one of them gone the other does the work of both; without fitting it is half."""
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, stride=2, padding=1, padding_mode=mode))
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(whole[0], name)[4:] = getattr(whole[0], name)[:4] * 0.4
    x = torch.rand(32, 1, 11, 11, generator=torch.Generator().manual_seed(0))
    off = {}
    for refit in (False, True):
        plan = PruneChannels(keep=0.5, where="0", refit=refit).plan(whole.eval(), context(x))
        assert plan.kept == {"0": [0, 1, 2, 3]}
        with torch.no_grad():
            wanted = whole(x)
            off[refit] = float((plan.apply(whole)(x) - wanted).square().mean() / wanted.square().mean())
    assert off[True] < 0.1 * off[False]
    (row,) = [row for row in plan.describe() if row["edit"] == "fit again"]
    assert row["module"] == "2"
    assert float(row["after"]) < 0.01 < float(row["before"].split()[0])


def test_errors_never_grow() -> None:
    example = EXAMPLES["convolutions"]
    plan = PruneChannels(keep=0.5, refit=True).plan(example.build(), example.context())
    rows = [row for row in plan.describe() if row["edit"] == "fit again"]
    assert rows
    assert all(float(row["after"]) <= float(row["before"].split()[0]) for row in rows)


class Twice(nn.Module):
    """One layer that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.reads, self.again, self.head = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.again(torch.tanh(self.again(torch.tanh(self.reads(x)))))))
        return logits


def test_layers_that_cannot_be_fitted_are_named() -> None:
    torch.manual_seed(0)
    plan = PruneChannels(keep=0.5, refit=True).plan(Twice().eval(), context(torch.rand(16, 3)))
    left = {row["module"]: row["before"] for row in plan.describe() if row["edit"] == "not fitted"}
    assert left == {"again": "it is called 2 times, not once"}
    assert plan.carries == ["head.weight", "head.bias"]


class Words(nn.Module):
    """Token numbers in; the head has the table of words as its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 10, bias=False)
        self.table, self.inner, self.outer = nn.Embedding(10, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.table.weight = self.head.weight

    def forward(self, words: Tensor) -> Tensor:
        logits: Tensor = self.head(self.outer(torch.relu(self.inner(self.table(words)))).mean(1))
        return logits


def test_a_tied_weight_stays_and_whole_numbers_are_followed() -> None:
    torch.manual_seed(0)
    whole, words = Words().eval(), torch.randint(0, 10, (32, 6))
    plan = PruneChannels(keep=0.5, refit=True).plan(whole, context(words))
    assert {row["module"] for row in plan.describe() if row["edit"] == "fit again"} >= {"outer"}
    assert not {"head.weight", "table.weight"} & set(plan.carries)
    left = {row["module"]: row["before"] for row in plan.describe() if row["edit"] == "not fitted"}
    assert left["head"] == "its weight is also that of table"
    plain = PruneChannels(keep=0.5).plan(whole, context(words)).apply(whole)
    assert torch.equal(plan.apply(whole).table.weight, plain.table.weight)


def test_nothing_to_fit_to_is_told_at_once() -> None:
    x = torch.rand(4, 6).double()
    with pytest.raises(PlanError, match="refit=True fits weights on calibration batches"):
        PruneChannels(keep=0.5, refit=True).plan(perceptron(), Context(inputs=x))
    with pytest.raises(SettingError, match="refit fits biases too"):
        PruneChannels(keep=0.5, refit=True, keep_means=True)


def test_half_precision_is_fitted_in_single() -> None:
    """Sums of products of 4,096 inputs overflow in half precision; what is fitted must not."""
    whole, x = perceptron(), 200 * torch.rand(4096, 6, generator=torch.Generator().manual_seed(2)).double()
    whole[1] = whole[3] = nn.ReLU()
    plans = {
        kind: PruneChannels(keep=0.5, refit=True).plan(whole.to(kind), context(x.to(kind), 512))
        for kind in (torch.float16, torch.float32)
    }
    half, single = (plan.apply(whole.to(kind)) for kind, plan in plans.items())
    assert half[2].weight.dtype == torch.float16
    with torch.no_grad():
        wanted = single(x.float())
        assert float((half(x.half()).float() - wanted).norm() / wanted.norm()) < 0.02
