"""Every exported operation, and one tiny network on which each of them does something."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen import operations
from lessen.core import Operation
from lessen.operations import (
    AdaRound,
    Awq,
    BFloat16,
    Gptq,
    Half,
    LearnedStep,
    LowRank,
    PruneWeights,
    Quantize,
    QuantizeWeights,
    RemoveBlocks,
)
from lessen.testing.networks import Example


def in_turn(rows: Sequence[tuple[Any, ...]], last: Sequence[Any]) -> list[Any]:
    """Parameters of a test: each row with each of `last`, of which all but one, in turn, are for exhaustive runs.

    >>> [each.values for each in in_turn([("a",), ("b",)], [1, 2]) if not each.marks]
    [('a', 1), ('b', 2)]
    """
    return [
        pytest.param(*row, one, marks=[] if (place - number) % len(last) == 0 else pytest.mark.exhaustive)
        for number, row in enumerate(rows)
        for place, one in enumerate(last)
    ]


MORE: dict[type, tuple[Operation, ...]] = {
    Half: (Half(), Half(kind=BFloat16(), where="head")),
    LowRank: (LowRank(ratio=0.5),),
    Quantize: (
        Quantize(),
        Quantize(learned=LearnedStep(), weight_bits=4),
        Quantize(rounding=AdaRound(steps=2), correct_biases=True),
    ),
    QuantizeWeights: (
        QuantizeWeights(bits=3, group=None, method=Gptq()),
        QuantizeWeights(group=4, method=Awq(), symmetric=True),
    ),
    PruneWeights: (PruneWeights(keep=0.5),),
    RemoveBlocks: (RemoveBlocks(keep=0.5),),
}
"""Settings to try an operation with, where the usual ones are not enough: one for each way to store a parameter."""


def exported() -> dict[str, Operation]:
    """Every operation in `lessen.operations`, by name, and those of `MORE` in more than one setting."""
    found: dict[str, Operation] = {}
    for name in operations.__all__:
        kind = getattr(operations, name)
        if isinstance(kind, type) and callable(getattr(kind, "plan", None)):
            for number, each in enumerate(MORE[kind] if kind in MORE else (kind(),)):
                found[name if number == 0 else f"{name}{number}"] = each
    return found


class Block(nn.Module):
    """What `RemoveBlocks` can remove and `Smooth` can smooth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)

    def forward(self, x_NC: Tensor) -> Tensor:
        out_NC: Tensor = x_NC + self.inner(self.norm(x_NC)).relu()
        return out_NC


class Little(nn.Module):
    """Convolutions with and without batch normalisation, blocks with layer normalisation, a tied pair, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.tied, self.same = nn.Linear(8, 8), nn.Linear(8, 8)
        self.same.weight = self.tied.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        out = F.relu(self.conv(F.relu(self.bn(self.stem(x_NCHW)))))
        out = self.blocks(out.mean((2, 3)))
        logits_NC: Tensor = self.head(F.relu(self.same(F.relu(self.tied(out)))))
        return logits_NC


LITTLE = Example(Little, (2, 4, 4), classes=3)
LAYER = Example(lambda: nn.Linear(8, 3), (8,), classes=3)
"""The whole network is one layer: it is itself what gets parametrised, and then quantized."""


def outputs(model: nn.Module, example: Example) -> Tensor:
    """What a network gives in eval mode."""
    with torch.no_grad():
        found: Tensor = model.eval()(example.inputs(3))
    return found
