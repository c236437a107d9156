"""How plans of channel pruning are proven: on what, how exactly, and who is blamed when a proof fails."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from lessen.core import Context
from lessen.core.errors import PlanError
from lessen.operations import PruneChannels
from lessen.operations.prune_channels import attempt as attempts
from lessen.operations.prune_channels import verify as proofs
from lessen.operations.prune_channels.attempt import Attempt
from lessen.operations.prune_channels.plan import PrunedChannels
from lessen.operations.prune_channels.verify import TOLERANCE, in_double, randomised, rounding, settled, trial
from lessen.surgery.coupling import analyse, keep_mask

X = torch.rand(2, 3, 4, 4)


def chain(depth: int) -> nn.Sequential:
    layers = [nn.Sequential(nn.Conv2d(3 if not i else 4, 4, 1), nn.ReLU()) for i in range(depth)]
    return nn.Sequential(*layers, nn.Conv2d(4, 2, 1))


class Gated(nn.Module):
    """A deep residual network with gates, whose signals grow with random statistics, as in EfficientNetV2."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "wide": nn.Sequential(nn.Conv2d(8, 32, 1), nn.BatchNorm2d(32), nn.SiLU()),
                    "gate": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(32, 32, 1), nn.Sigmoid()),
                    "back": nn.Sequential(nn.Conv2d(32, 8, 1), nn.BatchNorm2d(8)),
                }
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            wide = block["wide"](x)  # type: ignore[index]
            x = x + block["back"](wide * block["gate"](wide))  # type: ignore[index]
        return x


def largest(network: nn.Module) -> float:
    with torch.no_grad():
        return float(network(X.double()).abs().max())


def test_statistics_are_at_the_scale_of_what_they_normalise() -> None:
    network = Gated(12)
    wild, calm = randomised(network), settled(randomised(network), X)
    assert largest(wild) > 300
    assert largest(calm) < 30
    assert rounding(calm, X) < rounding(wild, X)


def test_settling_silences_no_channel() -> None:
    """With one value in each channel, centring by that value would leave nothing that depends on the input."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    calm = settled(randomised(network), X[:1, :, :1, :1])
    one, other = torch.rand(2, 1, 3, 1, 1).double()
    with torch.no_grad():
        assert float((calm(one) - calm(other)).abs().max()) > 1e-2


def test_rounding_is_measured() -> None:
    """A network that takes a small difference of large numbers blows up rounding by their ratio."""

    class Cancels(nn.Module):
        def __init__(self, large: float) -> None:
            super().__init__()
            self.layer, self.large = nn.Linear(3, 3, bias=False).double(), large

        def forward(self, x: Tensor) -> Tensor:
            return (self.layer(x) + self.large) - self.large

    torch.manual_seed(0)
    x = torch.rand(2, 3)
    assert rounding(Cancels(0.0), x) < 1e-14
    assert 1e-9 < rounding(Cancels(1e7), x) < 1e-7


def test_a_network_that_blows_up_rounding_is_proven_on_its_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain(2)
    known = {"randomised": 1e-6, "in_double": 1e-15}
    made: dict[int, str] = {}

    def named(name: str) -> None:
        make = getattr(proofs, name)

        def wrapped(model: nn.Module) -> nn.Module:
            work: nn.Module = make(model)
            made[id(work)] = name
            return work

        monkeypatch.setattr(proofs, name, wrapped)

    for name in known:
        named(name)
    monkeypatch.setattr(proofs, "rounding", lambda model, inputs: known[made[id(model)]])
    found = trial(network, X)
    assert made[id(found.network)] == "in_double"
    assert found.tolerance == TOLERANCE
    known["in_double"] = 2e-7
    with pytest.raises(PlanError, match="Rounding alone changes the outputs"):
        trial(network, X)
    known["in_double"] = 1e-8
    assert math.isclose(trial(network, X).tolerance, 1e-6)


def broken(monkeypatch: pytest.MonkeyPatch, wrong: Iterable[str], together: Iterable[str] = ()) -> list[PrunedChannels]:
    """Proofs fail for plans with one of these groups, and for plans with all of those together."""
    asked: list[PrunedChannels] = []
    wrong, together = set(wrong), set(together)

    def verify(_: object, plan: PrunedChannels) -> str | None:
        asked.append(plan)
        bad = wrong & set(plan.kept) or (together and together <= set(plan.kept))
        return "outputs differ" if bad else None

    monkeypatch.setattr(attempts, "verify", verify)
    return asked


DEPTH = 32


@pytest.mark.parametrize("wrong", [[], ["5.0"], ["0.0", "31.0"], ["3.0", "4.0", "17.0"]], ids=len)
def test_wrong_groups_are_found_by_halving(monkeypatch: pytest.MonkeyPatch, wrong: list[str]) -> None:
    network = chain(DEPTH)
    asked = broken(monkeypatch, wrong)
    attempt = Attempt(network, analyse(network, X), X)
    kept = {name: [0, 1] for name in attempt.coupling.groups}
    assert len(kept) == DEPTH
    while attempt.proven({name: kept[name] for name in kept if name not in attempt.left_out}) is None:
        pass
    assert sorted(attempt.left_out) == sorted(wrong)
    assert len(asked) <= 2 + 2 * len(wrong) * (1 + math.log2(DEPTH))


def test_groups_that_are_wrong_together_only(monkeypatch: pytest.MonkeyPatch) -> None:
    network = chain(DEPTH)
    asked = broken(monkeypatch, [], together=["2.0", "20.0"])
    attempt = Attempt(network, analyse(network, X), X)
    kept = {name: [0, 1] for name in attempt.coupling.groups}
    while attempt.proven({name: kept[name] for name in kept if name not in attempt.left_out}) is None:
        pass
    assert list(attempt.left_out) == ["20.0"]
    assert attempt.left_out["20.0"].startswith("together with other groups")
    assert len(asked) <= 6 + 2 * math.log2(DEPTH)


@pytest.mark.parametrize(("apart", "left"), [(False, set()), (True, {"1.0"})])
def test_two_groups_of_one_attribute_do_not_take_turns_for_ever(
    apart: bool, left: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Group 0 needs the attribute `a` to hold its number; group 1 needs `b`, and, where they are `apart`, not `a`."""
    network, proofs_made = chain(3), []

    def verified(self: Attempt, plan: PrunedChannels) -> str | None:
        proofs_made.append(plan)
        assert len(proofs_made) < 100, "two groups take turns"
        means = set(self.choice.get(("", ("a", "b")), ()))
        wrong = ("0.0" in plan.kept and "a" not in means) or (
            "1.0" in plan.kept and ("b" not in means or (apart and "a" in means))
        )
        return "wrong" if wrong else None

    monkeypatch.setattr(Attempt, "_differs", verified)
    monkeypatch.setattr(Attempt, "_candidates", lambda self, kept: [("", ("a", "b"))])
    monkeypatch.setattr(Attempt, "_fewest_edits", lambda self, kept, plan: plan)
    plan = PruneChannels(keep=0.5).plan(network, Context(inputs=X))
    assert set(plan.left_out) == left
    assert {"0.0", "1.0", "2.0"} - left == set(plan.kept)


def test_a_real_plan_with_a_planted_error_is_blamed_on_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real proof, on a real network: the plan of one group has its consumer cut at other places."""
    network = Gated(4)
    right = Attempt.plan

    def wrong(self: Attempt, kept: attempts.Kept) -> PrunedChannels:
        plan = right(self, kept)
        for name, axes in plan.layouts.items():
            if name.startswith("blocks.2.back.0"):
                axes[1] = [[2, 16]] if axes[1] == [[32]] else [["shifted"]]
                plan.kept["shifted"], plan.sizes["shifted"] = [*range(16, 32)], 32
        return plan

    kept = {f"blocks.{i}.wide.0": [*range(16)] for i in range(4)}
    attempt = Attempt(network, analyse(network, X), X)
    assert attempt.proven(kept) is not None
    monkeypatch.setattr(Attempt, "plan", wrong)
    attempt = Attempt(network, analyse(network, X), X)
    assert attempt.proven(kept) is None
    assert list(attempt.left_out) == ["blocks.2.wide.0"]
    assert "outputs differ" in attempt.left_out["blocks.2.wide.0"]


class Wide(nn.Module):
    """A residual block of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.back = nn.Conv2d(8, 32, 1), nn.Conv2d(32, 8, 1)

    def look(self, wide: Tensor) -> None:
        pass

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(x)
        self.look(wide)
        made: Tensor = x + self.back(wide)
        return made


class Insists(Wide):
    """Its width is written into its code, and is no attribute that could be changed."""

    def look(self, wide: Tensor) -> None:
        if wide.shape[1] != 32:
            raise ValueError(f"32 channels are expected, not {wide.shape[1]}")


class Particular(Wide):
    """On shapes alone it runs with its own width only; on numbers with any."""

    def look(self, wide: Tensor) -> None:
        if wide.is_meta and wide.shape[1] != 32:
            raise RuntimeError("there is no kernel for this")


def test_what_does_not_fit_together_is_found_on_shapes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 16 blocks 3 refuse other widths. Numbers are run for the whole, for one of the three and at the end."""
    network = nn.Sequential(nn.Conv2d(3, 8, 1), *(Insists() if i in {3, 4, 11} else Wide() for i in range(16)))
    real: list[PrunedChannels] = []
    right = Attempt._differs

    def counted(self: Attempt, plan: PrunedChannels) -> str | None:
        real.append(plan)
        return right(self, plan)

    monkeypatch.setattr(Attempt, "_differs", counted)
    plan = PruneChannels(keep=0.5).plan(network, Context(inputs=X))
    assert plan.left_out == {
        f"{i}.wide": "the pruned network does not run: ValueError: 32 channels are expected, not 16" for i in (4, 5, 12)
    }
    assert {f"{i}.wide" for i in range(1, 17) if i not in {4, 5, 12}} <= set(plan.kept)
    assert len(real) == 3


class Counting(nn.Module):
    """What it computes depends on numbers, so it does not run on shapes alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x if float(x.sum()) > 0 else -x


@pytest.mark.parametrize("copied", [True, False])
def test_without_shapes_numbers_are_run(copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the network does not run on shapes alone, or no copy of it can be made for that."""

    def refuse(*_: object) -> nn.Module:
        raise RuntimeError("this network has numbers only")

    network = nn.Sequential(nn.Conv2d(3, 8, 1), Insists(), Insists())
    attempt = Attempt(network, analyse(network, X), X)
    attempt._trial = trial(nn.Sequential(*network, Counting()) if copied else network, X)
    if not copied:
        monkeypatch.setattr(proofs, "copy_with", refuse)
    assert attempt._trial.shapes is None
    kept = {"1.wide": [*range(16)]}
    assert proofs.misfit(attempt._trial, attempt.plan(kept)) is None
    assert attempt.proven(kept) is None
    assert list(attempt.left_out) == ["1.wide"]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_what_shapes_alone_refuse_and_numbers_do_not_is_pruned(order: tuple[int, ...]) -> None:
    blocks = [Insists(), Particular(), Particular()]
    network = nn.Sequential(nn.Conv2d(3, 8, 1), *(blocks[i] for i in order))
    plan = PruneChannels(keep=0.5).plan(network, Context(inputs=X))
    left = f"{1 + order.index(0)}.wide"
    assert list(plan.left_out) == [left]
    assert {"1.wide", "2.wide", "3.wide"} - {left} <= set(plan.kept)


def test_masks_of_a_tensor_are_made_of_its_own_groups() -> None:
    """A group that the axis does not name costs nothing: neither time for each tensor nor the memory of its size."""
    assert keep_mask([["a"], [1]], {"a": 2, "b": 10**12}, {"a": [1], "b": [0]}).tolist() == [False, True, True]


def test_plans_of_deep_gated_networks_are_proven_whole() -> None:
    network = Gated(24)
    plan = PruneChannels(keep=0.5).plan(network, Context(inputs=X))
    assert not plan.left_out
    assert len(plan.kept) >= 24


def test_both_ways_to_make_a_trial_leave_the_network_alone() -> None:
    network = Gated(2)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for make in (randomised, in_double):
        settled(make(network), X)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
