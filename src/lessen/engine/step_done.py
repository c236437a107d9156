"""What a function of one's own is shown after each step of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lessen.core.errors import SettingError


@dataclass(frozen=True, kw_only=True)
class StepDone:
    """One step that was just made, with the numbers of its line in the log.

    Args:
        stage: The name of the stage.
        number: The number of the stage.
        epoch: The pass over the data, from 0.
        step: The step within the stage, from 0.
        steps: Steps of the whole stage.
        losses: What arrived at each node that learns; None if it is not a finite number.
        edges: `loss`, `weight` and `gate` of each edge that was computed.
        rates: The learning rate of each node that learns.
        networks: The networks of all nodes, snapshots included, to look at; they are in training mode. What is changed
            in them is part of the training, but of no checkpoint's identity.
    """

    stage: str
    number: int
    epoch: int
    step: int
    steps: int
    losses: Mapping[str, float | None]
    edges: Mapping[str, Mapping[str, float | None]]
    rates: Mapping[str, float]
    networks: Mapping[str, nn.Module]


OnStep = Callable[[StepDone], Any]


def check_on_step(given: Any) -> None:
    """Check that something can be called after each step.

    Raises:
        SettingError: it cannot.
    """
    if given is not None and not callable(given):
        raise SettingError(
            f"on_step is a {type(given).__name__}; a function of one argument was expected, as "
            "on_step=lambda done: print(done.step, done.losses)."
        )
