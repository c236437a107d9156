"""What an operation may ask of the training loop: a loss minimised over some parameters.

Operations are in a layer below the engine and cannot import it, so they ask their `Context`. The engine supplies its
loop here when it is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

Loss = Callable[[int], Tensor]
"""The loss of a step, a scalar with a gradient; the step counts from 0."""


class Builds(Protocol):
    """Settings of an optimizer, as `lessen.optim.Adam(rate=0.001)`."""

    @property
    def rate(self) -> float: ...

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer: ...


def constant(progress: float) -> float:
    """A schedule that leaves the learning rate as it is."""
    return 1.0


@dataclass(frozen=True, kw_only=True)
class ShortTraining:
    """A short training inside an operation.

    Args:
        subject: What is trained, for errors: "the rounding of layer1.conv".
        parameters: What learns, by name.
        loss: The loss of each step.
        steps: How many steps.
        optimizer: Settings of the optimizer.
        schedule: Factor on the learning rate at a progress from 0 to 1; the progress of step k is k / steps.
        device: Where the loss is computed.
        seed: Of what the loss draws from torch's global generators (dropout), a new stream for each step.
    """

    subject: str
    parameters: Mapping[str, nn.Parameter]
    loss: Loss
    steps: int
    optimizer: Builds
    schedule: Callable[[float], float] = constant
    device: torch.device
    seed: int = 0


class Trainer(Protocol):
    """A loop that carries out a `ShortTraining`."""

    def train(self, training: ShortTraining, /) -> None:
        """Change the parameters in place.

        Raises:
            DivergedError: the loss of a step is not finite.
            PlanError: nothing learns.
        """


_supplied: list[Trainer] = []


def supply(trainer: Trainer) -> None:
    """Make this the loop of all contexts that bring none of their own; the engine does so when it is imported."""
    _supplied[:] = [trainer]


def supplied() -> Trainer:
    """The loop of contexts that bring none. The engine is loaded by name: it is above this layer."""
    if not _supplied:
        importlib.import_module("lessen.engine")
    return _supplied[0]
