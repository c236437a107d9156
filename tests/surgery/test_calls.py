"""What a network computes is seen in order, with its places named, and the network is left as it was."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.surgery.calls import Watch, trace


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu(self.conv(x))
        out += x
        return self.relu(out)


def test_places_are_named_and_tensors_numbered() -> None:
    model = nn.Sequential(Block(), nn.Flatten())
    model.train()
    seen = trace(model, torch.randn(2, 3, 4, 4))
    calls = [(one.op, one.site, one.inputs, one.outputs) for one in seen.calls]
    assert [name for name, *_ in calls] == ["conv2d", "relu", "add", "relu", "flatten"]
    assert [site for _, site, *_ in calls] == ["0.conv", "0.relu", "0:add:0", "0.relu@1", "1"]
    conv, first, add, second, flat = seen.calls
    assert conv.inputs == [*seen.inputs, None, None]  # weight and bias do not depend on the input
    assert add.inputs == [*first.outputs, *seen.inputs]  # though both relus write over what they are given
    assert second.inputs == add.outputs
    assert seen.outputs == flat.outputs
    assert seen.times["0.relu"] == 2
    assert model.training
    assert model[0].conv.training


def test_what_is_made_of_weights_alone_is_not_seen() -> None:
    class Masked(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight * 2, self.bias)

    assert [one.op for one in trace(Masked(3, 3), torch.randn(2, 3)).calls] == ["linear"]


class Words(nn.Module):
    """Numbers of words and a mask of whole numbers in."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)
        self.register_buffer("places", torch.randn(5, 4))

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:
        hidden = self.table(words) + self.places
        weight = mask[:, :, None].to(hidden.dtype)
        logits: Tensor = self.head((hidden * weight).sum(1))
        return logits


def test_what_whole_numbers_lead_to_is_followed() -> None:
    model, words = Words(), torch.randint(0, 9, (3, 5))
    seen = trace(model, (words, torch.ones_like(words)))
    assert seen.inputs == []
    table, places, weight, product, total, head = seen.calls
    assert (table.op, table.site, table.inputs) == ("embedding", "table", [None])
    assert places.inputs == [*table.outputs, None]
    assert (weight.op, weight.inputs) == ("to", [])
    assert product.inputs == [*places.outputs, *weight.outputs]
    assert head.inputs == [*total.outputs, None, None]
    assert seen.outputs == head.outputs


def test_a_watch_leaves_no_hook_behind_even_after_an_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("broken")

    hooks = nn.modules.module._global_forward_hooks, nn.modules.module._global_forward_pre_hooks
    before = [len(known) for known in hooks]
    model = nn.Sequential(Broken())
    try:
        with Watch(model):
            model(torch.zeros(1))
    except ValueError:
        pass
    assert [len(known) for known in hooks] == before
