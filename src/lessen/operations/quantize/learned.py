"""Which numbers of the grids learn while the network is trained: steps, steps and offsets, or clips.

The network trains as any other does, by edges of a graph, with its teacher in its original precision; the numbers of
the grids are parameters of it. They have their own weight decay (`lessen.surgery.decay`), whatever the weights have.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from annotated_types import Ge

from lessen.core.settings import settings
from lessen.operations.quantize.grids import ClipGrid, Grid, OffsetGrid, StepGrid


@settings
class LearnedStep:
    """Every step learns, of weights and of activations (LSQ, arXiv:1902.08153). No decay pulls at steps.

    The paper's first step is `observer=MeanMagnitude(), weight_observer=MeanMagnitude()`; the zero of a grid stays
    where the observer put it.
    """

    weights: ClassVar[bool] = True

    def grid(self, scale: float, zero_point: int, *, levels: int) -> Grid:
        """The grid of an edge, as observed."""
        return StepGrid(scale, zero_point, levels=levels)


@settings
class LearnedStepAndOffset:
    """Every step learns, and for activations of both signs also where the grid starts (LSQ+, arXiv:2004.09576).

    The paper's first grids are those of `observer=SquaredError(), weight_observer=SquaredError()`. Its offset is any
    number; here it is an integer number of steps, so that integer kernels have a code for zero.
    """

    weights: ClassVar[bool] = True

    def grid(self, scale: float, zero_point: int, *, levels: int) -> Grid:
        """The grid of an edge, as observed."""
        kind = OffsetGrid if zero_point else StepGrid
        return kind(scale, zero_point, levels=levels)


@settings
class LearnedClip:
    """The largest value of activations behind a ReLU learns (PACT, arXiv:1805.06085); steps of weights follow them.

    Edges whose values have both signs keep the grid that was observed.

    Args:
        decay: Of the clips: what pulls them down, against the loss of what they cut off. In the paper that of weights.
    """

    decay: Annotated[float, Ge(0)] = 5e-4

    weights: ClassVar[bool] = False

    def grid(self, scale: float, zero_point: int, *, levels: int) -> Grid:
        """The grid of an edge, as observed."""
        if zero_point:
            return Grid(scale, zero_point, levels=levels)
        return ClipGrid(scale, levels=levels, decay=self.decay)


Learned = LearnedStep | LearnedStepAndOffset | LearnedClip
