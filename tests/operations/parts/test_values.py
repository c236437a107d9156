"""Values that a plan carries: written as text, read back, and put where they belong."""

from dataclasses import field

import pytest
import torch
from torch import nn

from lessen.core import encode, settings
from lessen.core.errors import PlanError
from lessen.operations.parts.values import put_values, read_value, without_values, write_value
from lessen.surgery.forms.mask import mask_parameter


@settings
class Replaced:
    values: dict[str, str] | None = field(default_factory=dict)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.randn(2, 3),
        torch.randn(4).double(),
        torch.tensor(3),
        torch.arange(-3, 3).to(torch.int8),
        torch.zeros(0, 2),
    ],
    ids=lambda one: f"{one.dtype}-{tuple(one.shape)}",
)
def test_a_value_comes_back_bit_for_bit(tensor: torch.Tensor) -> None:
    again = read_value(write_value(tensor))
    assert again.shape == tensor.shape
    assert again.dtype == tensor.dtype
    assert torch.equal(again, tensor)


def test_half_precision_is_widened() -> None:
    half = torch.randn(3).bfloat16()
    assert torch.equal(read_value(write_value(half)), half.float())


@pytest.mark.parametrize(
    "text", ["", "float32 2 AACAPw==", "float32 1 ???", "object 1 AACAPw==", "float32 1x AACAPw==", "int64 1 AAAA"]
)
def test_a_damaged_text_is_said(text: str) -> None:
    with pytest.raises(PlanError, match="damaged"):
        read_value(text)


def test_values_are_put_under_the_masks() -> None:
    layer = nn.Linear(2, 1, bias=False)
    mask_parameter(layer, "weight", torch.tensor([[True, False]]))
    put_values(nn.ModuleDict({"a": layer}), {"a.weight": write_value(torch.tensor([[3.0, 4.0]]))})
    assert torch.equal(layer.weight, torch.tensor([[3.0, 0.0]]))


def test_values_of_another_network_are_refused() -> None:
    network = nn.Sequential(nn.Linear(2, 1))
    for name, shape in (("0.weight", (1, 3)), ("1.weight", (1, 2)), ("0.scale", (1,))):
        with pytest.raises(PlanError, match="does not belong"):
            put_values(network, {name: write_value(torch.zeros(shape))})


def test_a_run_keeps_a_plan_without_its_values() -> None:
    plan = Replaced(values={"a": write_value(torch.zeros(1))})
    assert encode(without_values(plan)) == {"Replaced": {"values": None}}
    assert without_values(nn.Identity) is nn.Identity
    with pytest.raises(PlanError, match=r"lessen\.load"):
        put_values(nn.Identity(), None)
