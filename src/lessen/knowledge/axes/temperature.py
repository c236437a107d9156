"""The temperature of logits: a number, or one that changes with the progress of the stage.

Jafari et al., Annealing knowledge distillation, EACL 2021, arXiv:2104.07163. One that learns: `CurriculumTemperature`.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from lessen.core import Card, settings

PositiveTemperature = Annotated[float, Field(gt=0, allow_inf_nan=False)]
T = TypeVar("T")


@settings
class AnnealedTemperature:
    """A temperature that changes linearly from one value to another over the stage.

    Args:
        start: The temperature at the first step, and wherever the progress of training is unknown.
        end: The temperature at the last step.
    """

    start: PositiveTemperature = 8.0
    end: PositiveTemperature = 1.0

    card: ClassVar[Card] = Card(
        row="knowledge / transforms",
        paper="arXiv:2104.07163",
        says="The student first learns the teacher's small probabilities, then its decisions; or the other way round.",
        costs="Nothing.",
        fails_when="The objective does not keep the size of gradients (T^2): its weight then changes with the "
        "temperature too.",
        differs="The paper divides only the teacher's logits, and compares them by squared differences.",
    )

    def during(self, progress: float) -> float:
        """The temperature at a progress of the stage, from 0 to 1.

        >>> AnnealedTemperature(start=8.0, end=1.0).during(0.5)
        4.5
        """
        return self.start + (self.end - self.start) * progress


Temperature = PositiveTemperature | AnnealedTemperature
"""What a setting `temperature` may be."""


def first_temperature(temperature: float | AnnealedTemperature) -> float:
    """The number itself, or the number at the start of the stage."""
    return temperature.during(0.0) if isinstance(temperature, AnnealedTemperature) else temperature


def at_progress(given: T, progress: float) -> T:
    """The settings with every field that changes over the stage as it is at this progress; themselves if none does."""
    kind: type = type(given)
    changed: dict[str, Any] = {}
    for name in _fields(kind):
        value = getattr(given, name)
        if hasattr(value, "during") and (now := value.during(progress)) is not value:
            changed[name] = now
    return dataclasses.replace(given, **changed) if changed else given  # type: ignore[type-var]


@cache
def _fields(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))
