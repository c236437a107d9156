"""A momentum for the task and another for distillation.

Zhao, Cui, Song, Qiu & Liang, DOT: A distillation-oriented trainer, ICCV 2023, arXiv:2307.08436.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.settings import settings
from lessen.optim.optimizer import APART, TORCH_NAMES, Below1, Rate
from lessen.optim.rules import NotNegative, ParameterRule, groups


@settings
class DistillationOriented:
    """Stochastic gradient descent whose momentum is smaller for the task's loss and larger for all other losses.

    Decay is added to the gradient of the task. A parameter that only one of the two reaches in a step has the plain
    momentum in it. A combine rule of the node sees the losses of the task; the others are summed.

    Args:
        delta: By how much the momenta differ from `momentum`, downwards for the task and upwards for the others.
        task: The nodes whose losses are those of the task; penalties, which have no source, belong to them.
        rules: Parameters with a rate or a decay of their own, as (NoDecay(), Rule("head", rate_factor=10)).
    """

    also: ClassVar[Mapping[str, str]] = TORCH_NAMES
    card: ClassVar[Card] = Card(
        row="graph / optimizers",
        paper="arXiv:2307.08436",
        says="The student follows the teacher with a larger momentum than the labels.",
        costs="A second momentum and a second gradient for each weight while training; nothing in the shipped model.",
        fails_when="The teacher is wrong on the task: its momentum then outweighs the labels.",
        differs="Gradients are bounded together by Fit(clip=), the norm being taken over both.",
    )

    rate: Rate = 0.05
    momentum: Below1 = 0.9
    delta: Annotated[float, Field(ge=0)] = 0.075
    decay: NotNegative = 5e-4
    task: tuple[str, ...] = ("labels",)
    rules: tuple[ParameterRule, ...] = ()

    @model_validator(mode="after")
    def _momenta(self) -> Self:
        if not self.delta <= self.momentum < 1 - self.delta:
            raise ValueError(
                f"the momenta {self.momentum - self.delta:.3g} and {self.momentum + self.delta:.3g} must be at least 0 "
                "and below 1"
            )
        return self

    def apart(self, source: str | None, /) -> bool:
        """Whether the gradient of a loss from this source is kept apart from the others'."""
        return source is not None and source not in self.task

    def build(self, parameters: Mapping[str, nn.Parameter], /) -> torch.optim.Optimizer:
        own = {name: parameter for name, parameter in parameters.items() if not name.startswith(APART)}
        carriers = {own[name.removeprefix(APART)]: p for name, p in parameters.items() if name.startswith(APART)}
        made = groups(own, self.rules, rate=self.rate)
        if carriers:
            made.append({"params": list(carriers.values())})
        return _TwoMomenta(made, carriers, rate=self.rate, momentum=self.momentum, delta=self.delta, decay=self.decay)


class _TwoMomenta(torch.optim.Optimizer):
    """Moves parameters by two momenta; `carriers` hold the gradients that are kept apart, and never move."""

    def __init__(
        self,
        parameters: list[dict[str, Any]],
        carriers: Mapping[nn.Parameter, nn.Parameter],
        *,
        rate: float,
        momentum: float,
        delta: float,
        decay: float,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "weight_decay": decay})
        self._momentum, self._delta = momentum, delta
        self._carriers, self._held = carriers, set(carriers.values())

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        del closure
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter not in self._held:
                    self._move(parameter, rate=group["lr"], decay=group["weight_decay"])

    def _move(self, parameter: nn.Parameter, *, rate: float, decay: float) -> None:
        carrier = self._carriers.get(parameter)
        task, other = parameter.grad, None if carrier is None else carrier.grad
        if task is None and other is None:
            return
        delta = 0.0 if task is None or other is None else self._delta
        decayed = parameter.detach() * decay
        for name, gradient, momentum in (
            ("task", task, self._momentum - delta),
            ("other", other, self._momentum + delta),
        ):
            if gradient is None:
                continue
            if decay and (name == "task" or task is None):
                gradient = gradient + decayed
            buffer: Tensor | None = self.state[parameter].get(name)
            if buffer is None:
                buffer = self.state[parameter][name] = gradient.clone()
            else:
                buffer.mul_(momentum).add_(gradient)
            parameter.add_(buffer, alpha=-rate)
