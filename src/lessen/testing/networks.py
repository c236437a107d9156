"""Small networks on which the laws of operations are tried: each has something that operations trip over."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context, Inputs
from lessen.core.seeds import seeded


class Convolutions(nn.Module):
    """Convolution, batch norm, a residual sum, a depthwise convolution, a flattened classifier."""

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.head = nn.Linear(width * 4, 5)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = F.relu(self.norm(self.stem(x_NCHW)))
        out = F.relu(out + self.inner_norm(self.inner(out)))
        out = F.relu(self.depthwise(out))
        logits_NC: Tensor = self.head(F.adaptive_avg_pool2d(out, 2).flatten(1))
        return logits_NC


class Perceptron(nn.Module):
    """Linear layers, one of which runs twice."""

    def __init__(self, *, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(12, width)
        self.again = nn.Linear(width, width)
        self.last = nn.Linear(width, 5)

    def forward(self, x_NC: Tensor) -> Tensor:
        out = F.relu(self.first(x_NC))
        out = F.relu(self.again(F.relu(self.again(out))))
        logits_NC: Tensor = self.last(out)
        return logits_NC


class Attention(nn.Module):
    """One encoder layer of PyTorch's, which reads its own weights instead of calling its parts; tokens are averaged."""

    def __init__(self, *, width: int = 16) -> None:
        super().__init__()
        self.embed = nn.Linear(6, width)
        self.layer = nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True)
        self.head = nn.Linear(width, 5)

    def forward(self, x_NTC: Tensor) -> Tensor:
        logits_NC: Tensor = self.head(self.layer(self.embed(x_NTC)).mean(1))
        return logits_NC


class Shared(nn.Module):
    """One module in two places, and two modules with one weight."""

    def __init__(self, *, width: int = 24) -> None:
        super().__init__()
        self.enter = nn.Linear(12, width)
        self.first = nn.Linear(width, width)
        self.same = self.first
        self.tied = nn.Linear(width, width)
        self.other = nn.Linear(width, width, bias=False)
        self.other.weight = self.tied.weight
        self.head = nn.Linear(width, 5)

    def forward(self, x_NC: Tensor) -> Tensor:
        out = F.relu(self.same(F.relu(self.first(F.relu(self.enter(x_NC))))))
        logits_NC: Tensor = self.head(F.relu(self.other(F.relu(self.tied(out)))))
        return logits_NC


class Recurrent(nn.Module):
    """A recurrent layer with two layers in two directions, whose outputs and last states are both read.

    Args:
        kind: GRU, LSTM or RNN.
        width: Hidden units.
    """

    def __init__(self, kind: Callable[..., nn.RNNBase] = nn.LSTM, *, width: int = 12) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 8)
        self.reader = kind(8, width, num_layers=2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * width, 5)
        self.state = nn.Linear(2 * width, 5)

    def forward(self, x_NTC: Tensor) -> Tensor:
        out_NTC, states = self.reader(self.embed(x_NTC))
        last = states[0] if isinstance(states, tuple) else states
        logits_NC: Tensor = self.head(out_NTC.mean(1)) + self.state(torch.cat([last[-2], last[-1]], 1))
        return logits_NC


@dataclass(frozen=True)
class Example:
    """A network to try operations on.

    Args:
        factory: Builds it, with weights drawn from torch's global generator.
        shape: Of one example of its input.
        classes: How many labels there are.
    """

    factory: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int = 5

    def build(self, seed: int = 0) -> nn.Module:
        """The network with weights, and batch-norm statistics, that depend on the seed alone; in eval mode."""
        with seeded(seed, "network"):
            network = self.factory()
            for module in network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_()
                    module.running_var.uniform_(0.5, 2.0)
                    module.weight.data.uniform_(0.5, 1.5)
                    module.bias.data.normal_()
        return network.eval()

    def inputs(self, count: int = 8, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """Examples, the same every time."""
        with seeded(0, "inputs"):
            return torch.randn(count, *self.shape).to(dtype)

    def context(self, *, dtype: torch.dtype = torch.float32) -> Context:
        """All that an operation may ask for."""
        inputs: Inputs = self.inputs(dtype=dtype)
        with seeded(0, "labels"):
            batches = [Batch(self.inputs(16, dtype=dtype), torch.arange(16), torch.randint(self.classes, (16,)))]
        return Context(inputs=inputs, calibration=batches, loss=_loss)


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(outputs, labels, reduction="none")


EXAMPLES: Mapping[str, Example] = {
    "convolutions": Example(Convolutions, (3, 8, 8)),
    "perceptron": Example(Perceptron, (12,)),
    "attention": Example(Attention, (7, 6)),
    "shared": Example(Shared, (12,)),
}
