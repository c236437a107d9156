"""Scores: how much a weight matters. The weights with the lowest scores are removed first.

A score is a share for each weight; shares are added over whatever goes together (one weight, one channel, one coupled
group), and the sum is finished into a figure. Shares with a sign cancel within a group before they are finished, but
not across batches: the figures of several batches are added by the caller.

Magnitude: Han et al., Learning both weights and connections, NeurIPS 2015, arXiv:1506.02626; of channels: Li et al.,
Pruning filters for efficient convnets, ICLR 2017, arXiv:1608.08710.
Taylor: Molchanov et al., Importance estimation for neural network pruning, CVPR 2019, arXiv:1906.10771.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Protocol, runtime_checkable

from pydantic import Field
from torch import Tensor

from lessen.core import settings


@runtime_checkable
class Score(Protocol):
    """The importance of a weight. With `needs_gradient` the caller supplies the gradient of the loss, else None."""

    needs_gradient: ClassVar[bool]

    def shares(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """Each weight's share, the shape of `weight`."""

    def finish(self, total: Tensor) -> Tensor:
        """The figure of each group from the sum of its shares; same shape; larger is kept longer."""


def magnitude_shares(weight: Tensor, *, power: float) -> Tensor:
    """abs(w) ** power, the shape of `weight`."""
    return weight.detach().abs().pow(power)


def taylor_shares(weight: Tensor, gradient: Tensor) -> Tensor:
    """Weight times gradient: the first-order change of the loss when the weight goes to zero, with its sign."""
    return weight.detach() * gradient


@settings
class Magnitude:
    """Large weights matter.

    Args:
        power: Exponent on the absolute values before they are added over a group.
    """

    power: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    needs_gradient: ClassVar[bool] = False

    def shares(self, weight: Tensor, gradient: Tensor | None = None) -> Tensor:
        """abs(w) ** power, the shape of `weight`."""
        return magnitude_shares(weight, power=self.power)

    def finish(self, total: Tensor) -> Tensor:
        """The sum as it is."""
        return total


@settings
class Taylor:
    """Weights whose removal changes the loss matter: the sum of abs(w * dL/dw), or (sum of w * dL/dw) ** 2.

    Args:
        joint: Whether the changes of all weights of a group are added with their signs, and the sum is squared: the
            first of the paper's two ways (section 3.1). In a trained network they nearly cancel, the more the larger
            the group, and what is left says little of what training could still make of it. Otherwise none cancels.
    """

    joint: bool = False

    needs_gradient: ClassVar[bool] = True

    def shares(self, weight: Tensor, gradient: Tensor | None) -> Tensor:
        """Weight times gradient, its size or with its sign, the shape of `weight`; the gradient must be there."""
        assert gradient is not None, "Taylor needs gradients; the caller must supply them"
        shares = taylor_shares(weight, gradient)
        return shares if self.joint else shares.abs()

    def finish(self, total: Tensor) -> Tensor:
        """The sum, squared where it has a sign."""
        return total.square() if self.joint else total
