"""A small task and small networks, for laws that train."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from lessen.core import ArrayExamples, Data


def clusters(*, train: int = 80, other: int = 32, features: int = 8, classes: int = 4) -> Data:
    """Random vectors whose label is the largest of a few linear functions of them; always the same."""
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(train + 2 * other, features, generator=drawn)
    y = (x @ torch.randn(features, classes, generator=drawn)).argmax(1)
    parts = [slice(0, train), slice(train, train + other), slice(train + other, None)]
    splits = [ArrayExamples(x[part], y[part]) for part in parts]
    names = tuple("abcdefghij"[:classes])
    return Data(train=splits[0], validation=splits[1], test=splits[2], classes=names, name="clusters")


def perceptron(hidden: int, *, seed: int, features: int = 8, classes: int = 4) -> nn.Sequential:
    """Two hidden layers, `layer1` and `layer2` (of 6 features), with batch norm, ReLU in place and dropout between."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                layer1=nn.Linear(features, hidden),
                norm=nn.BatchNorm1d(hidden),
                activation=nn.ReLU(inplace=True),
                dropout=nn.Dropout(0.2),
                layer2=nn.Linear(hidden, 6),
                activation2=nn.ReLU(inplace=True),
                head=nn.Linear(6, classes),
            )
        )
