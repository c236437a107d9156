from __future__ import annotations

import pytest
import torch
from torch import nn

from lessen.core.errors import NetworkError
from lessen.surgery.digest import digest
from lessen.surgery.modules import copy_structure, copy_with, get_module, get_tensor, set_module, tensor_names


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.again = self.one
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.one[0].weight


def test_modules_are_found_by_path() -> None:
    network = Shared()
    assert get_module(network, "one.0") is network.one[0]
    assert get_module(network, "") is network
    with pytest.raises(NetworkError, match=r"has no module 'one.2': did you mean 'one.1', 'one.0'"):
        get_module(network, "one.2")


def test_a_shared_module_is_replaced_everywhere() -> None:
    network, new = Shared(), nn.Sequential(nn.Linear(3, 2))
    set_module(network, "again", new)
    assert network.one is new
    assert network.again is new
    with pytest.raises(NetworkError, match="whole network"):
        set_module(network, "", new)


def test_tied_tensors_have_several_names() -> None:
    network = Shared()
    names = tensor_names(network)[id(network.tied.weight)]
    assert names == ["one.0.weight", "again.0.weight", "tied.weight"]
    assert get_tensor(network, "again.1.running_mean") is network.one[1].running_mean
    for wrong in ("tied.wait", "nowhere.weight"):
        with pytest.raises(NetworkError, match="no parameter or buffer"):
            get_tensor(network, wrong)


def test_a_copy_with_other_tensors_keeps_ties_and_kinds() -> None:
    network = Shared()
    network.tied.weight.requires_grad_(False)
    made = copy_with(network, {"tied.weight": torch.ones(2, 3), "one.1.running_mean": torch.ones(2)})
    assert made.one[0].weight is made.tied.weight
    assert made.one is made.again
    assert isinstance(made.tied.weight, nn.Parameter)
    assert not made.tied.weight.requires_grad
    assert made.tied.weight.shape == (2, 3)
    assert dict(made.named_buffers())["one.1.running_mean"].tolist() == [1, 1]
    assert network.tied.weight.shape == (4, 3)
    assert made.tied.bias is not network.tied.bias


def test_a_copy_of_the_structure_shares_tensors_and_not_modules() -> None:
    network = Shared()
    made = copy_structure(network)
    assert made.one is not network.one
    assert all(a is b for a, b in zip(made.parameters(), network.parameters(), strict=True))
    assert all(a is b for a, b in zip(made.buffers(), network.buffers(), strict=True))


def test_the_digest_sees_every_bit_and_nothing_else() -> None:
    network = Shared()
    before = digest(network)
    assert len(before) == 64
    assert digest(copy_with(network, {"tied.bias": network.tied.bias.detach().clone()})) == before
    changed = network.tied.bias.detach().clone()
    changed[0] = torch.nextafter(changed[0], torch.tensor(9.0))
    assert digest(copy_with(network, {"tied.bias": changed})) != before
    assert digest(network.double()) != before
    column = nn.Linear(3, 2)
    column.weight = nn.Parameter(column.weight.detach().T.contiguous().T)
    assert digest(column) == digest(copy_with(column, {"weight": column.weight.detach().contiguous()}))
