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
