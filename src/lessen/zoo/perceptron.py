"""A multi-layer perceptron: the smallest network that can be pruned, factored, quantized and taught."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


def mlp(
    *, inputs: int = 64, hidden: Sequence[int] = (64, 64), classes: int = 10, batch_norm: bool = False
) -> nn.Sequential:
    """Linear layers `layer1`, `layer2` … with ReLU between them, and a `head`; the inputs are flattened first.

    Args:
        inputs: Numbers in one example.
        hidden: Features of each hidden layer.
        classes: Outputs.
        batch_norm: Normalise each hidden layer over the batch.

    >>> import torch
    >>> mlp(inputs=64, hidden=(8,))(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    modules: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    before = inputs
    for number, features in enumerate(hidden, 1):
        modules[f"layer{number}"] = nn.Linear(before, features, bias=not batch_norm)
        if batch_norm:
            modules[f"norm{number}"] = nn.BatchNorm1d(features)
        modules[f"activation{number}"] = nn.ReLU()
        before = features
    modules["head"] = nn.Linear(before, classes)
    return nn.Sequential(modules)
