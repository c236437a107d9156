"""How features are normalised before they are compared: an axis of its own.

Per channel over the batch: Cao et al., PKD, NeurIPS 2022, arXiv:2207.02039; Miles & Mikolajczyk, AAAI 2024,
arXiv:2303.11098. Whitening: Miles et al., VkD, CVPR 2024, arXiv:2403.06213.

Shapes: N examples, C channels, P positions, M = N * P; see `lessen.functional.channels`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.channels import by_channel

_ROW = "knowledge / normalizers"
Tiny = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@runtime_checkable
class Normalizer(Protocol):
    """From features (N, C, P) to features (N, C, P). `relational` says whether it looks at the whole batch."""

    card: ClassVar[Card]
    relational: ClassVar[bool]

    def __call__(self, features_NCP: Tensor, /) -> Tensor: ...


@settings
class AsItIs:
    """Features stay as they are."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1412.6550",
        says="Nothing is normalised.",
        costs="Nothing.",
        fails_when="The other side is normalised, and no bridge can bring this side to its scale.",
    )
    relational: ClassVar[bool] = False

    def __call__(self, features_NCP: Tensor, /) -> Tensor:
        return features_NCP


@settings
class StandardizeChannels:
    """Each channel has mean 0 and variance 1 over all examples and positions of the batch.

    Args:
        tiny: Added to the variance.
    """

    tiny: Tiny = 1e-6

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="PKD, arXiv:2207.02039; arXiv:2303.11098",
        says="Scale and offset of a channel do not matter, and no channel outweighs the others.",
        costs="Two passes over the features.",
        fails_when="Batches are small, or a channel is dead: its noise is blown up to the scale of the others.",
        differs="The variance is that of the batch (divided by N), without learned scale and offset.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, features_NCP: Tensor, /) -> Tensor:
        variance, mean = torch.var_mean(features_NCP, (0, 2), correction=0, keepdim=True)
        return (features_NCP - mean) * (variance + self.tiny).rsqrt()


@settings
class StandardizePositions:
    """The channels of each position have mean 0 and variance 1: layer normalisation without weights.

    Args:
        tiny: Added to the variance.
    """

    tiny: Tiny = 1e-6

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Ba et al., Layer normalization, arXiv:1607.06450",
        says="Scale and offset of a position do not matter; other examples have no influence.",
        costs="Two passes over the features.",
        fails_when="The length of the features carries what is to be learned, as confidence does.",
    )
    relational: ClassVar[bool] = False

    def __call__(self, features_NCP: Tensor, /) -> Tensor:
        variance, mean = torch.var_mean(features_NCP, 1, correction=0, keepdim=True)
        return (features_NCP - mean) * (variance + self.tiny).rsqrt()


@settings
class Whiten:
    """Channels have mean 0, variance 1 and no correlation over all examples and positions of the batch.

    Args:
        shrink: The share of the mean variance that is added to each channel's, so that the inverse exists.
    """

    shrink: Tiny = 1e-3

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="VkD, arXiv:2403.06213",
        says="Every direction of the features counts alike, also those in which they hardly vary.",
        costs="A C x C covariance, its Cholesky factor and a triangular solve per step.",
        fails_when="There are fewer examples and positions than channels: directions without data are noise.",
        differs="Uses the Cholesky factor, whose gradient is stable. Other square roots differ from it by a rotation, "
        "which an orthogonal bridge can learn.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, features_NCP: Tensor, /) -> Tensor:
        count, channels, positions = features_NCP.shape
        rows_CM = features_NCP.transpose(0, 1).flatten(1)
        rows_CM = rows_CM - rows_CM.mean(1, keepdim=True)
        # Mixed precision would make the covariance half precision, of which there is no Cholesky factor.
        with torch.autocast(features_NCP.device.type, enabled=False):
            covariance_CC = rows_CM @ rows_CM.T / (count * positions)
            diagonal_C = self.shrink * covariance_CC.diagonal().mean() + torch.finfo(rows_CM.dtype).tiny ** 0.5
            root_CC = torch.linalg.cholesky(covariance_CC + torch.diag(diagonal_C.expand(channels)))
            white_CM: Tensor = torch.linalg.solve_triangular(root_CC, rows_CM, upper=False)
        return white_CM.view(channels, count, positions).transpose(0, 1)


@settings
class UnitLength:
    """Each example has length 1 over all its channels and positions."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1802.04977 (factor transfer)",
        says="The scale of an example does not matter.",
        costs="One pass over the features.",
        fails_when="The length of the features carries what is to be learned, as confidence does.",
    )
    relational: ClassVar[bool] = False

    def __call__(self, features_NCP: Tensor, /) -> Tensor:
        return F.normalize(features_NCP.flatten(1), dim=1).view(features_NCP.shape)


def normalized(features: Tensor, normalizer: Normalizer) -> Tensor:
    """Features of any number of axes, normalised: shape (N, C, P)."""
    return normalizer(by_channel(features))
