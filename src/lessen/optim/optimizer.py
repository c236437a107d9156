"""Optimizers as settings: how the weights of a node are updated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import nn

from lessen.core.settings import settings
from lessen.optim.rules import NotNegative, ParameterRule, groups

Rate = Annotated[float, Field(gt=0)]
Below1 = Annotated[float, Field(ge=0, lt=1)]
TORCH_NAMES = {"lr": "rate", "learning_rate": "rate", "weight_decay": "decay", "eps": "epsilon"}
"""What torch calls these settings; optimizers take both names."""

APART = "apart:"
"""What the names of carriers begin with: parameters whose gradient is that of losses which an optimizer keeps apart."""


@runtime_checkable
class Optimizer(Protocol):
    """A settings object that builds a torch optimizer, whose learning rates follow the schedule.

    `build` gets the parameters by name: those of the node's network as the network calls them (`layer1.0.weight`),
    those of whatever else learns with it as `kind:name.path` (`bridge:teacher->student.weight`). It may put them into
    groups with rates and decays of their own; the schedule multiplies the rate that each group was built with. `rate`
    is the one that is logged.
    """

    @property
    def rate(self) -> float: ...

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer: ...


@runtime_checkable
class KeepsApart(Optimizer, Protocol):
    """An optimizer that gets the gradients of some losses apart from those of the others.

    For each parameter `path`, `build` gets `apart:path` as well: its gradient is that of the losses that are kept
    apart, and `path` has that of the others. It must be in a group of the optimizer, and must not be moved.
    """

    def apart(self, source: str | None, /) -> bool:
        """Whether the loss of an edge that arrives at the node is kept apart; by the source, None for a penalty."""


@settings
class SGD:
    """Stochastic gradient descent with momentum; decay is added to the gradient.

    Args:
        rules: Parameters with a rate or a decay of their own, as (NoDecay(), Rule("head", rate_factor=10)).
    """

    also: ClassVar[Mapping[str, str]] = TORCH_NAMES

    rate: Rate = 0.05
    momentum: Below1 = 0.9
    nesterov: bool = True
    decay: NotNegative = 5e-4
    rules: tuple[ParameterRule, ...] = ()

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer:
        nesterov = self.nesterov and self.momentum > 0
        return torch.optim.SGD(
            groups(parameters, self.rules, rate=self.rate),
            lr=self.rate,
            momentum=self.momentum,
            nesterov=nesterov,
            weight_decay=self.decay,
        )


@settings
class Adam:
    """Adam (arXiv:1412.6980); decay is added to the gradient.

    Args:
        rules: Parameters with a rate or a decay of their own, as (NoDecay(), LayerRates(factor=0.75)).
    """

    also: ClassVar[Mapping[str, str]] = TORCH_NAMES

    rate: Rate = 1e-3
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    epsilon: Rate = 1e-8
    decay: NotNegative = 0.0
    rules: tuple[ParameterRule, ...] = ()

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            groups(parameters, self.rules, rate=self.rate),
            lr=self.rate,
            betas=self.betas,
            eps=self.epsilon,
            weight_decay=self.decay,
        )


@settings
class AdamW:
    """Adam with decay apart from the gradient (arXiv:1711.05101).

    Args:
        rules: Parameters with a rate or a decay of their own, as (NoDecay(), LayerRates(factor=0.75)).
    """

    also: ClassVar[Mapping[str, str]] = TORCH_NAMES

    rate: Rate = 1e-3
    betas: tuple[Below1, Below1] = (0.9, 0.999)
    epsilon: Rate = 1e-8
    decay: NotNegative = 0.01
    rules: tuple[ParameterRule, ...] = ()

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            groups(parameters, self.rules, rate=self.rate),
            lr=self.rate,
            betas=self.betas,
            eps=self.epsilon,
            weight_decay=self.decay,
        )
