"""Any learning-rate scheduler of torch, by its name, as a schedule that needs no state."""

from __future__ import annotations

import enum
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import field
from typing import Annotated, Any, Self

import torch
from pydantic import BeforeValidator, model_validator
from torch import nn
from torch.optim import lr_scheduler

from lessen.core.errors import SettingError, did_you_mean
from lessen.core.settings import folded, settings

_PLATEAU = (
    "it follows what happened, and a schedule follows the progress of the stage alone, so that a run is resumed "
    "exactly; use Fit(patience=...) to stop at a plateau, and Cosine() or StepLR to go slower"
)


class Per(enum.Enum):
    """What counts as one step of a scheduler."""

    STEP = "step"
    EPOCH = "epoch"


def _known() -> dict[str, str]:
    """The names of torch's schedulers, by themselves without case."""
    return {folded(name): name for name in lr_scheduler.__all__ if name != "LRScheduler"}


def _spelt(given: Any) -> Any:
    if isinstance(given, type) and issubclass(given, lr_scheduler.LRScheduler):
        given = given.__name__
    if not isinstance(given, str):
        return given
    known, short = _known(), folded(given.rpartition(".")[2])
    name = known.get(short) or known.get(f"{short}lr")
    if name is None:
        raise ValueError(f"torch has no scheduler {given!r}: {did_you_mean(given, known.values())}")
    if name == "ReduceLROnPlateau":
        raise ValueError(f"the scheduler {name} cannot be used here: {_PLATEAU}")
    return name


@settings
class TorchSchedule:
    """Any scheduler of `torch.optim.lr_scheduler`, by its name: the factor that it gives at each step of a stage.

    Rates in its settings are factors of the optimizer's rate: the peak of `OneCycleLR` is 1, unless `max_lr` says
    otherwise. A stage that is resumed follows torch's scheduler again from its first step, so nothing needs to be
    stored, and a run is resumed exactly. Momenta are not moved.

    Args:
        name: As "OneCycleLR" or "StepLR", in any case.
        settings: Its settings, by torch's names, as {"step_size": 30}. The length of the stage is filled in for
            `total_steps` of OneCycleLR and `T_max` of CosineAnnealingLR; `schedulers` are a list of these objects.
        per: Whether it makes a step with each step of the optimizer or with each pass over the data.

    >>> TorchSchedule(name="StepLR", settings={"step_size": 2}, per="epoch").over(8, epoch_steps=2).at(0.5)
    0.1
    """

    name: Annotated[str, BeforeValidator(_spelt)]
    settings: Mapping[str, Any] = field(default_factory=dict)
    per: Per = Per.STEP

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = set(inspect.signature(getattr(lr_scheduler, self.name)).parameters) - {"optimizer", "last_epoch"}
        for name in self.settings:
            if name not in known:
                raise ValueError(f"torch's {self.name} has no setting {name!r}: {did_you_mean(name, known)}")
        if self.settings.get("cycle_momentum"):
            raise ValueError("cycle_momentum: momenta are not moved here; leave it out")
        try:
            Followed(self, 3, 1).at(1.0)
        except SettingError as error:
            raise ValueError(str(error)) from error
        return self

    def at(self, progress: float, /) -> float:
        """The factor in a stage of 1,000 steps and 100 epochs, where no stage has said how long it is."""
        return self.over(1000, epoch_steps=10).at(progress)

    def over(self, steps: int, *, epoch_steps: int) -> Followed:
        """The schedule of a stage.

        Args:
            steps: Optimizer steps of the stage.
            epoch_steps: Optimizer steps of one pass over the data.

        Raises:
            SettingError: torch refuses the settings, or a stage of this length.
        """
        return Followed(self, steps, 1 if self.per is Per.STEP else epoch_steps)

    def build(self, optimizer: torch.optim.Optimizer, count: int) -> lr_scheduler.LRScheduler:
        """Torch's scheduler, on an optimizer whose rate is 1.

        Args:
            optimizer: It moves.
            count: How many steps the scheduler will make.

        Raises:
            ValueError, TypeError: torch refuses the settings, or so many steps.
        """
        given = dict(self.settings)
        if self.name == "OneCycleLR":
            length = {} if {"total_steps", "epochs"} & set(given) else {"total_steps": count}
            given = {"max_lr": 1.0, **length, **given, "cycle_momentum": False}
        elif self.name == "CyclicLR":
            given = {"max_lr": 1.0, **given, "cycle_momentum": False}
        elif self.name == "CosineAnnealingLR":
            given = {"T_max": count, **given}
        if "schedulers" in given:
            given["schedulers"] = [inner.build(optimizer, count) for inner in given["schedulers"]]
        made: lr_scheduler.LRScheduler = getattr(lr_scheduler, self.name)(optimizer=optimizer, **given)
        return made


class Followed:
    """What torch's scheduler gives, step by step. It is only ever a function of the step, whatever was asked before.

    Args:
        schedule: Which scheduler.
        steps: Optimizer steps of the stage.
        every: Optimizer steps to one step of the scheduler.

    Raises:
        SettingError: torch refuses the settings, or a stage of this length.
    """

    def __init__(self, schedule: TorchSchedule, steps: int, every: int) -> None:
        self._name, self._steps, self._every = schedule.name, steps, every
        self._count = math.ceil(steps / every)
        self._optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0, momentum=0.9)
        self._found: list[float] = []
        with self._explained():
            self._scheduler = schedule.build(self._optimizer, self._count)
            self._optimizer.step()
        self._found = [self._rate()]
        most = getattr(self._scheduler, "total_steps", None)  # of OneCycleLR, which fails behind them
        if most is not None and most < self._count:
            raise SettingError(f"torch's {self._name} ends after {most} steps, but the stage has {self._count}.")

    def at(self, progress: float, /) -> float:
        """The factor at a progress; at the end, that of the last step."""
        number = min(round(progress * self._steps), self._steps - 1) // self._every
        while len(self._found) <= number:
            with self._explained():
                self._scheduler.step()
            self._found.append(self._rate())
        return self._found[number]

    def _rate(self) -> float:
        return float(self._optimizer.param_groups[0]["lr"])

    @contextmanager
    def _explained(self) -> Iterator[None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield
            except (ValueError, TypeError, ArithmeticError) as error:
                raise SettingError(
                    f"torch's {self._name} cannot be followed for {self._count} steps: {error}"
                ) from error
