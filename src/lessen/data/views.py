"""Views of a training batch: random flips, crops, shifts and erasures, a whole batch at once.

What a view draws comes in as uniform numbers, so an example is seen the same way in every run that asks for the same
numbers. Moving pixels is one `gather` for all examples, whatever each of them drew.

Shapes: N examples, C channels, H x W positions, K numbers drawn for each example.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field, NonNegativeInt
from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import ShapeError
from lessen.core.settings import settings
from lessen.data.transforms import AnyView

Probability = Annotated[float, Field(ge=0, le=1)]


def flip_crop(images_NCHW: Tensor, uniforms_N3: Tensor, *, padding: int, flip: float) -> Tensor:
    """Mirror some images left to right and cut each out of its zero-padded self at a random place, shape unchanged.

    Args:
        images_NCHW: Images.
        uniforms_N3: In [0, 1): the row of the cut, its column, and whether to mirror.
        padding: Zeros on every side, in pixels; 0 leaves the images in place.
        flip: Probability of mirroring.

    >>> flip_crop(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[0.5, 0.99, 0.9]]), padding=1, flip=0.5)
    tensor([[[[2., 0.]]]])
    """
    if images_NCHW.ndim != 4:
        raise ShapeError(f"A view of images needs shape (N, C, H, W), but got {tuple(images_NCHW.shape)}.")
    count, channels, height, width = images_NCHW.shape
    uniforms_N3 = uniforms_N3.to(images_NCHW.device)
    corner_N2 = (uniforms_N3[:, :2] * (2 * padding + 1)).long()
    across = torch.arange(width, device=images_NCHW.device)
    across_NW = torch.where(uniforms_N3[:, 2:3] < flip, across.flip(0), across)
    rows_NH1 = (corner_N2[:, :1] + torch.arange(height, device=images_NCHW.device))[:, :, None]
    columns_N1W = (corner_N2[:, 1:] + across_NW)[:, None, :]
    place_NHW = rows_NH1 * (width + 2 * padding) + columns_N1W
    padded = F.pad(images_NCHW, (padding,) * 4).flatten(2)
    place = place_NHW.reshape(count, 1, height * width).expand(count, channels, height * width)
    return padded.gather(2, place).view(count, channels, height, width)


def erase(images_NCHW: Tensor, uniforms_N5: Tensor, *, probability: float, least: float, most: float) -> Tensor:
    """Put zeros into a random rectangle of some images (Zhong et al., Random Erasing, AAAI 2020, arXiv:1708.04896).

    Args:
        images_NCHW: Images.
        uniforms_N5: In [0, 1): whether, the area, the ratio of the sides, the row and the column.
        probability: Of erasing.
        least: Smallest area, as a share of the image.
        most: Largest area, as a share of the image.
    """
    if images_NCHW.ndim != 4:
        raise ShapeError(f"A view of images needs shape (N, C, H, W), but got {tuple(images_NCHW.shape)}.")
    height, width = images_NCHW.shape[-2:]
    chance, area, ratio, row, column = uniforms_N5.to(images_NCHW.device).unbind(1)
    side = ((least + area * (most - least)) * height * width).sqrt()
    stretch = torch.exp((2 * ratio - 1) * 0.6)  # the paper's ratio, from 0.55 to 1.8, even on a logarithmic scale
    tall, wide = (side * stretch).clamp(max=height), (side / stretch).clamp(max=width)
    top, left = (row * (height - tall)).round(), (column * (width - wide)).round()
    down, across = torch.arange(height, device=row.device), torch.arange(width, device=row.device)
    in_rows_NH = (down >= top[:, None]) & (down < (top + tall.round())[:, None])
    in_columns_NW = (across >= left[:, None]) & (across < (left + wide.round())[:, None])
    hit_N = chance < probability
    hidden_NHW = in_rows_NH[:, :, None] & in_columns_NW[:, None, :] & hit_N[:, None, None]
    return images_NCHW.masked_fill(hidden_NHW[:, None], 0)


@settings
class AsTheyAre:
    """The images as they are: for a node that must not see the random view that others see."""

    draws: ClassVar[int] = 0

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        del uniforms_NK
        return inputs


@settings
class FlipCrop:
    """Mirror left to right, then cut out of the zero-padded image: the usual view of small photographs.

    Args:
        padding: Zeros on every side, in pixels.
        flip: Probability of mirroring.
    """

    padding: NonNegativeInt = 4
    flip: Probability = 0.5

    draws: ClassVar[int] = 3

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return flip_crop(inputs, uniforms_NK, padding=self.padding, flip=self.flip)


@settings
class Shift:
    """Move the image by a few pixels: for what must not be mirrored, as digits and letters.

    Args:
        by: Most pixels to move by, in each direction.
    """

    by: NonNegativeInt = 1

    draws: ClassVar[int] = 3

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return flip_crop(inputs, uniforms_NK, padding=self.by, flip=0.0)


@settings
class Erase:
    """Put zeros into a random rectangle, so that no one part of the image suffices.

    Args:
        probability: Of erasing.
        least: Smallest area, as a share of the image.
        most: Largest area, as a share of the image.
    """

    probability: Probability = 0.5
    least: Probability = 0.02
    most: Probability = 0.33

    draws: ClassVar[int] = 5

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        return erase(inputs, uniforms_NK, probability=self.probability, least=self.least, most=self.most)


@settings
class Compose:
    """Several views, one after the other.

    Args:
        views: In their order.
    """

    views: tuple[AnyView, ...]

    @property
    def draws(self) -> int:
        """Numbers drawn for each example: those of all the views."""
        return sum(view.draws for view in self.views)

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor:
        for view, own_NK in zip(self.views, uniforms_NK.split([view.draws for view in self.views], dim=1), strict=True):
            inputs = view(inputs, own_NK)
        return inputs
