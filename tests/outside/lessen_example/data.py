"""A data source: settings with a `load` that returns three splits."""

from typing import Annotated

import torch
from pydantic import Field

from lessen.core import ArrayExamples, Data, settings


@settings
class Rings:
    """Points in the plane on rings around the origin; the class is the ring.

    Args:
        rings: How many.
        examples: Of each split.
        noise: How far points lie off their ring, as a standard deviation; rings are 1 apart.
        seed: Of all that is drawn.
    """

    rings: Annotated[int, Field(ge=2)] = 3
    examples: Annotated[int, Field(ge=10)] = 512
    noise: Annotated[float, Field(ge=0)] = 0.1
    seed: int = 0

    def load(self) -> Data:
        return Data(
            train=self._split(0),
            validation=self._split(1),
            test=self._split(2),
            classes=tuple(f"ring {number}" for number in range(self.rings)),
            name="rings",
        )

    def _split(self, number: int) -> ArrayExamples:
        draws = torch.Generator().manual_seed(3 * self.seed + number)
        labels_N = torch.arange(self.examples) % self.rings
        radius_N = labels_N + 1 + self.noise * torch.randn(self.examples, generator=draws)
        angle_N = 2 * torch.pi * torch.rand(self.examples, generator=draws)
        inputs_N2 = torch.stack([radius_N * angle_N.cos(), radius_N * angle_N.sin()], dim=1)
        return ArrayExamples(inputs_N2, labels_N)
