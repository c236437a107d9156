"""Any optimizer of torch, by its name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import BeforeValidator, model_validator
from torch import nn

from lessen.core.errors import SettingError, did_you_mean
from lessen.core.settings import folded, settings
from lessen.optim.optimizer import Rate
from lessen.optim.rules import NotNegative, ParameterRule, groups

REFUSED = {
    "LBFGS": "it computes the loss several times in each step, and the engine does so once",
    "SparseAdam": "it is for sparse gradients, which the engine does not have; Adam does the same for dense ones",
}
"""Optimizers of torch that cannot be used here, and why."""


def torch_optimizers() -> dict[str, str]:
    """The names of torch's optimizers, by themselves without case."""
    return {
        folded(name): name
        for name, cls in vars(torch.optim).items()
        if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer) and cls is not torch.optim.Optimizer
    }


def _spelt(given: Any) -> Any:
    """The name of an optimizer as torch writes it."""
    if isinstance(given, type) and issubclass(given, torch.optim.Optimizer):
        given = given.__name__
    if not isinstance(given, str):
        return given
    known = torch_optimizers()
    name = known.get(folded(given.removeprefix("torch.optim.")))
    if name is None:
        said = did_you_mean(given, [name for name in known.values() if name not in REFUSED])
        raise ValueError(f"torch has no optimizer {given!r}: {said}")
    if name in REFUSED:
        raise ValueError(f"the optimizer {name} cannot be used here: {REFUSED[name]}")
    return name


@settings
class TorchOptimizer:
    """Any optimizer of `torch.optim`, by its name; its state is stored and resumed bit for bit.

    Args:
        name: As "NAdam" or "RMSprop", in any case.
        rate: The learning rate, which torch calls lr.
        decay: The weight decay; None: torch's default for this optimizer.
        settings: Its other settings, by torch's names, as {"betas": (0.9, 0.99)}.
        rules: Parameters with a rate or a decay of their own, as (NoDecay(), LayerRates(factor=0.75)).

    >>> TorchOptimizer(name="nadam", rate=0.002, settings={"momentum_decay": 0.01}).name
    'NAdam'
    >>> TorchOptimizer(name="RMSProb", rate=0.01)
    Traceback (most recent call last):
    ...
    lessen.core.errors.SettingError: TorchOptimizer: name: got 'RMSProb', but torch has no optimizer 'RMSProb': did ...
    """

    also: ClassVar[Mapping[str, str]] = {"lr": "rate", "learning_rate": "rate", "weight_decay": "decay"}

    name: Annotated[str, BeforeValidator(_spelt)]
    rate: Rate
    decay: NotNegative | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[ParameterRule, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = list(inspect.signature(getattr(torch.optim, self.name)).parameters)[1:]
        for name, value in self.settings.items():
            if own := type(self).also.get(name):
                raise ValueError(f"{name} is called {own} here, outside of `settings`: {own}={value!r}")
            if name not in known:
                raise ValueError(f"torch's {self.name} has no setting {name!r}: {did_you_mean(name, known)}")
        try:
            self._make([{"params": [nn.Parameter(torch.zeros(2, 2))]}])
        except (ValueError, TypeError, AssertionError) as error:
            raise ValueError(f"torch refuses the settings of {self.name}: {error}") from error
        return self

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer:
        """See `Optimizer`."""
        return self._make(groups(parameters, self.rules, rate=self.rate))

    def _make(self, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
        more = {name: tuple(value) if isinstance(value, list) else value for name, value in self.settings.items()}
        if self.decay is not None:
            more["weight_decay"] = self.decay
        made: torch.optim.Optimizer = getattr(torch.optim, self.name)(parameters, lr=self.rate, **more)
        return made


def no_torch_optimizer(given: Any) -> Any:
    """What was given, unless it is an optimizer of torch, or the name of one: then an error says what to write."""
    name = type(given).__name__ if isinstance(given, torch.optim.Optimizer) else None
    if isinstance(given, type) and issubclass(given, torch.optim.Optimizer):
        name = given.__name__
    elif isinstance(given, str):
        name = torch_optimizers().get(folded(given.removeprefix("torch.optim.")))
        name = None if name in {"SGD", "Adam", "AdamW"} else name
    if name is None:
        return given
    raise ValueError(
        f"settings were expected, from which each node's optimizer is made: TorchOptimizer(name={name!r}, rate=...)"
    )


def check_step(optimizer: torch.optim.Optimizer) -> None:
    """Check that an optimizer moves weights without being given a function that computes the loss.

    Raises:
        SettingError: it needs one.
    """
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        name = type(optimizer).__name__
        raise SettingError(f"{name} cannot be used here: {REFUSED['LBFGS']}. Choose another, as SGD or AdamW.")
