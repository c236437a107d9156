"""An average of a network's weights over the steps of a stage: what is validated and shipped in their place.

Polyak & Juditsky, Acceleration of stochastic approximation by averaging, SIAM J. Control Optim. 1992; the exponential
form and its start as in TensorFlow's `ExponentialMovingAverage`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from lessen.core.settings import settings


@settings
class Average:
    """An exponential moving average of every weight and of every floating-point buffer; other buffers are copied.

    The running statistics of batch norms are averaged as weights are. With `decay=0` it is the network itself.

    Args:
        decay: How much of the average is kept at each step. An average looks back on about 1 / (1 - decay) steps.
        warmup: Whether less is kept at first, (1 + n) / (10 + n) after n steps, so that the average forgets where the
            stage began; without it, a stage much shorter than 1 / (1 - decay) steps hardly moves.
    """

    decay: Annotated[float, Field(ge=0, lt=1)] = 0.999
    warmup: bool = True

    def kept(self, steps: int) -> float:
        """How much of the average is kept after so many steps.

        >>> Average().kept(0), Average(decay=0.5).kept(1000), Average(warmup=False).kept(0)
        (0.1, 0.5, 0.999)
        """
        return min(self.decay, (1 + steps) / (10 + steps)) if self.warmup else self.decay
