"""An operation that finds nothing to do says so: a name with a typo, a network without a layer that it can handle."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lessen import operations
from lessen.core import Batch, Context
from lessen.core.errors import PlanError
from lessen.zoo import residual

WITH_WHERE: dict[str, dict[str, Any]] = {
    "Equalize": {},
    "Half": {},
    "LowRank": {"rank": 2},
    "PruneByReconstruction": {},
    "PruneChannels": {},
    "PruneWeights": {},
    "Quantize": {},
    "QuantizeDynamic": {},
    "QuantizeWeights": {},
    "Reinitialize": {},
    "RemoveBlocks": {},
    "Smooth": {},
}


class Scaled(nn.Module):
    """Three numbers that scale three others; there is no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.reads = nn.LSTM(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, words: Tensor) -> Tensor:
        states: Tensor = self.head(self.reads(words)[0][:, -1])
        return states


def context(inputs: Tensor) -> Context:
    batch = Batch(inputs, torch.arange(len(inputs)), torch.arange(len(inputs)) % 3)
    return Context(
        inputs=inputs[:2],
        calibration=[batch],
        loss=lambda outputs, labels: nn.functional.cross_entropy(outputs, labels, reduction="none"),
    )


def test_every_operation_is_here() -> None:
    assert set(WITH_WHERE) == {name for name in operations.__all__ if hasattr(getattr(operations, name), "plan")}


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        (name, which)
        for name in WITH_WHERE
        for which in ("where", "exclude")
        if hasattr(getattr(operations, name), which)
    ],
)
@pytest.mark.parametrize("typo", ["steem", ("stem", "layr1.*")])
def test_a_typo_in_where_is_no_silent_nothing(name: str, setting: str, typo: str | tuple[str, ...]) -> None:
    network = residual(width=8, depth=8).eval()
    operation = getattr(operations, name)(**WITH_WHERE[name], **{setting: typo})
    wrong, near = (typo, "'stem'") if isinstance(typo, str) else (typo[-1], "'layer1")
    with pytest.raises(PlanError, match=rf"{setting}='{re.escape(wrong)}' names no module .*did you mean.*{near}"):
        operation.plan(network, context(torch.rand(4, 1, 28, 28)))


@pytest.mark.parametrize("name", WITH_WHERE)
def test_a_type_that_means_nothing_is_told(name: str) -> None:
    operation = getattr(operations, name)(**WITH_WHERE[name], where=nn.LSTM)
    with pytest.raises(PlanError, match=r"where|No block is selected"):
        operation.plan(residual(width=8, depth=8).eval(), context(torch.rand(4, 1, 28, 28)))


@pytest.mark.parametrize("name", WITH_WHERE)
def test_a_network_without_a_layer_for_it_is_told(name: str) -> None:
    """An error, or a row that says what it does or why it leaves things alone."""
    operation, given = getattr(operations, name)(**WITH_WHERE[name]), context(torch.rand(4, 3))
    if name in {"Equalize", "Half", "Reinitialize", "Smooth"}:
        rows = operation.plan(Scaled().eval(), given).describe()
        assert [row["edit"] for row in rows] == ["halved" if name == "Half" else "left alone"]
    else:
        with pytest.raises(PlanError, match=r"^(No |This network has no |Nothing in this network)"):
            operation.plan(Scaled().eval(), given)


@pytest.mark.parametrize("name", WITH_WHERE)
def test_a_neutral_operation_does_nothing_to_such_a_network(name: str) -> None:
    network, inputs = Scaled().eval(), torch.rand(4, 3)
    plan = getattr(operations, name).neutral().plan(network, context(inputs))
    assert torch.equal(plan.apply(network)(inputs), network(inputs))


@pytest.mark.parametrize("name", ["PruneWeights", "PruneByReconstruction", "QuantizeWeights"])
def test_weights_that_are_not_known_to_multiply_are_named(name: str) -> None:
    operation = getattr(operations, name)()
    rows = operation.plan(Recurrent().eval(), context(torch.rand(4, 5, 8))).describe()
    left = {row["module"]: row["before"] for row in rows if row["edit"] == "left alone"}
    assert left == dict.fromkeys(
        ["reads.weight_ih_l0", "reads.weight_hh_l0"], "it is not known how a LSTM uses its weight"
    )
