"""Images in files: decoded when they are asked for, held as bytes after that.

Shapes: N examples, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lessen.core.data import Batch, Examples, map_inputs
from lessen.core.errors import DataError, SettingError, need

Channels = Literal[1, 3]
"""Grey or colour."""

HELD = 2 * 2**30
"""Bytes of decoded images that one split holds in memory."""


@dataclass(frozen=True)
class ImageExamples:
    """Images that are decoded on demand, on the scale of 0 to 1.

    Args:
        open: Opens image number i as a PIL image.
        names: What to call each image in an error.
        labels: Shape (N,), int64.
        size: Height and width to resize to, in pixels; None expects all of them to have the size of the first.
        channels: 1 for grey, 3 for colour.
    """

    open: Callable[[int], Any]
    names: Sequence[str]
    labels: Tensor
    size: tuple[int, int] | None
    channels: Channels
    _held: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order.

        Raises:
            DataError: an image cannot be read, or is not of the size of the others; the text names it.
        """
        pixels = [self.pixels(int(i)) for i in index_N]
        for i, image in zip(index_N.tolist(), pixels, strict=True):
            if image.shape != pixels[0].shape:
                raise DataError(
                    f"The image {self.names[i]} has (height, width) {tuple(image.shape[1:])}, but others have "
                    f"{tuple(pixels[0].shape[1:])}. Give size=(height, width) to resize all of them."
                )
        return Batch(torch.stack(pixels).float().div_(255), index_N, self.labels[index_N])

    def pixels(self, i: int) -> Tensor:
        """Image number i, shape (C, H, W), uint8."""
        if i in self._held:
            return self._held[i]
        image = decode(self.open, i, name=self.names[i], size=self.size, channels=self.channels)
        if (len(self._held) + 1) * image.numel() <= HELD:
            self._held[i] = image
        return image


@dataclass(frozen=True)
class Standardised:
    """Images with the mean of each channel subtracted, and divided by its standard deviation.

    Args:
        examples: Images on the scale of 0 to 1.
        mean: Shape (C,).
        spread: Shape (C,).
    """

    examples: Examples
    mean: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.examples)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        batch = self.examples.fetch(index_N)
        shape = (1, -1, 1, 1)
        made = map_inputs(batch.inputs, lambda x: (x - self.mean.view(shape)) / self.spread.view(shape))
        return Batch(made, batch.index, batch.labels)


def decode(
    opening: Callable[[int], Any], i: int, *, name: str, size: tuple[int, int] | None, channels: Channels
) -> Tensor:
    """One image, resized, shape (C, H, W), uint8.

    Raises:
        DataError: it cannot be read.
    """
    pil = need("PIL.Image", "data")
    try:
        with opening(i) as image:
            made = image.convert("L" if channels == 1 else "RGB")
            if size is not None and made.size != size[::-1]:
                made = made.resize(size[::-1], pil.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(made, dtype=np.uint8))
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"The image {name} cannot be read ({error}). Repair it or take it out.") from error
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def standardise(
    splits: Mapping[str, Examples],
    mean: tuple[float, ...] | None,
    spread: tuple[float, ...] | None,
    *,
    channels: Channels,
    most: int = 1000,
) -> dict[str, Any]:
    """The splits, standardised with the given statistics, or with those of at most `most` training images.

    Raises:
        SettingError: there are not as many statistics as channels.
    """
    for name, given in (("mean", mean), ("spread", spread)):
        if given is not None and len(given) != channels:
            raise SettingError(f"{name} holds {len(given)} numbers, but there are {channels} channels. Give one each.")
    if mean is None or spread is None:
        train = splits["train"]
        some = torch.arange(0, len(train), max(1, len(train) // most))
        flat = torch.cat([_pixels(train, part) for part in some.split(64)], dim=1)
        mean = mean if mean is not None else tuple(flat.mean(1).tolist())
        spread = spread if spread is not None else tuple(flat.std(1).clamp(min=1e-3).tolist())
    statistics = torch.tensor(mean, dtype=torch.float32), torch.tensor(spread, dtype=torch.float32)
    return {name: Standardised(examples, *statistics) for name, examples in splits.items()}


def _pixels(examples: Examples, rows: Tensor) -> Tensor:
    """Pixels of some images by channel, shape (C, P)."""
    images = examples.fetch(rows).inputs
    assert isinstance(images, Tensor)
    # Every 7th pixel is plenty for a mean, and keeps large photographs out of memory.
    return images.double().transpose(0, 1).flatten(1)[:, ::7]
