"""Images in files: decoded when they are asked for, held as bytes after that.

Shapes: N examples, C channels, H x W positions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, Literal

import numpy as np
import psutil
import torch
from torch import Tensor

from lessen.core.ahead import Loading, loading_of, threads
from lessen.core.batch import Batch
from lessen.core.content import Content, content_of, sampled
from lessen.core.errors import DataError, SettingError, need
from lessen.core.examples import Examples

Channels = Literal[1, 3]
"""Grey or colour."""

HELD = 256 * 2**20
"""Bytes of decoded images that the splits of one folder or data set hold in memory together, at most; and never more
than a quarter of the memory that is free when it is loaded. Images beyond that are decoded again in every epoch."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called. Pillow knows more: PostScript it hands to Ghostscript, which runs it."""

_SKIPPED = 7
"""Of so many pixels one is read for a mean: that is plenty, and keeps large photographs out of memory."""

AT_ONCE = 2**24
"""Numbers of images that are held at once to measure their mean, and twice as many are read."""

READ = 2**30
"""Bytes of image files that a digest reads: all files up to so many; beyond, all names and sizes, and files that are
spread evenly."""


class Held:
    """Decoded images that are held in memory, by name, up to a number of bytes; safe to use in threads."""

    def __init__(self, most: int | None = None) -> None:
        self._most = min(HELD, psutil.virtual_memory().available // 4) if most is None else most
        self._images: dict[str, Tensor] = {}
        self._bytes, self._lock = 0, Lock()

    def get(self, name: str) -> Tensor | None:
        """An image that is held, or None."""
        return self._images.get(name)

    def put(self, name: str, image: Tensor) -> None:
        """Hold an image, where there is room."""
        with self._lock:
            if name not in self._images and self._bytes + image.nbytes <= self._most:
                self._images[name] = image
                self._bytes += image.nbytes

    def __getstate__(self) -> dict[str, Any]:
        """A process of its own begins with nothing."""
        return {"_most": self._most}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_most"])  # type: ignore[misc]


@dataclass(frozen=True)
class ImageExamples:
    """Images that are decoded on demand, by threads, on the scale of 0 to 1.

    Args:
        open: Opens image number i as a PIL image.
        names: What to call each image in an error; no two are the same.
        labels: Shape (N,), int64.
        size: Height and width to resize to, in pixels; None expects all of them to have the size of the first.
        channels: 1 for grey, 3 for colour.
        held: Where decoded images are held; shared by the splits.
        files: Whether the names are those of files.
    """

    open: Callable[[int], Any]
    names: Sequence[str]
    labels: Tensor
    size: tuple[int, int] | None
    channels: Channels
    held: Held = field(default_factory=Held, repr=False, compare=False)
    files: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def loading(self) -> Loading:
        """By threads: decoding leaves the interpreter free."""
        return Loading(threads=threads() if self.files else 1)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order.

        Raises:
            DataError: an image cannot be read, or is not of the size of the others; the text names it. Or so many
                images of this size do not fit into memory.
        """
        first = self.pixels(int(index_N[0]))
        needed = len(index_N) * first.numel() * (first.itemsize + torch.float32.itemsize)
        if needed > psutil.virtual_memory().available:
            raise DataError(
                f"{len(index_N)} images as {self.names[int(index_N[0])]}, of (height, width) {tuple(first.shape[1:])}, "
                f"take {needed / 2**30:.1f} GiB, more than the free memory. Give size=(height, width), or a smaller "
                "batch."
            )
        images = [first, *(self.pixels(int(i)) for i in index_N[1:])]
        for i, image in zip(index_N.tolist(), images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"The image {self.names[i]} has (height, width) {tuple(image.shape[1:])}, but others have "
                    f"{tuple(images[0].shape[1:])}. Give size=(height, width) to resize all of them."
                )
        # NumPy, because torch would start threads of its own in each thread that fetches.
        pixels = np.stack([image.numpy() for image in images]).astype(np.float32)
        pixels /= np.float32(255)
        return Batch(torch.from_numpy(pixels), index_N, self.labels[index_N])

    def pixels(self, i: int) -> Tensor:
        """Image number i, shape (C, H, W), uint8."""
        image = self.held.get(self.names[i])
        if image is None:
            image = decode(self.open, i, name=self.names[i], size=self.size, channels=self.channels)
            self.held.put(self.names[i], image)
        return image

    @cached_property
    def content(self) -> tuple[str, str]:
        """The digests of the images and of the labels; of files as many bytes as `READ` are read."""
        inputs, labels = Content(), Content()
        inputs.text(f"{self.size} {self.channels}")
        labels.tensor(self.labels)
        if not self.files:
            inputs.text(sampled(self)[0])
            return inputs.hexdigest(), labels.hexdigest()
        try:
            sizes = [os.stat(name).st_size for name in self.names]
            step = max(1, -(-sum(sizes) // READ))
            for i, (name, size) in enumerate(zip(self.names, sizes, strict=True)):
                inputs.text(f"{'/'.join(name.split(os.sep)[-2:])} {size}")
                if i % step == 0:
                    with open(name, "rb") as stream:
                        inputs.text(hashlib.file_digest(stream, "sha256").hexdigest())
        except OSError as error:
            raise DataError(f"The images cannot be read ({error}).") from error
        return inputs.hexdigest(), labels.hexdigest()


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
        assert isinstance(batch.inputs, Tensor)
        made = batch.inputs.numpy() - self.mean.numpy()[:, None, None]
        made /= self.spread.numpy()[:, None, None]
        return Batch(torch.from_numpy(made), batch.index, batch.labels)

    @property
    def loading(self) -> Loading:
        """As the images."""
        return loading_of(self.examples)

    @property
    def labels(self) -> Tensor | None:
        """Those of the images, where they are known without decoding."""
        return getattr(self.examples, "labels", None)

    @property
    def content(self) -> tuple[str, str]:
        """The digests of the images with the statistics, and of the labels."""
        images, labels = content_of(self.examples)
        inputs = Content()
        inputs.text(images)
        inputs.tensor(self.mean)
        inputs.tensor(self.spread)
        return inputs.hexdigest(), labels


def opened(file: Any) -> Any:
    """A PIL image of one of the `FORMATS`, not yet decoded.

    Args:
        file: A path, or an open file.
    """
    return need("PIL.Image", "data").open(file, formats=FORMATS)


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
            if pil.MAX_IMAGE_PIXELS is not None and image.width * image.height > pil.MAX_IMAGE_PIXELS:
                raise ValueError(
                    f"it has {image.width} x {image.height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS, which are "
                    f"{pil.MAX_IMAGE_PIXELS}"
                )
            made = image.convert("L" if channels == 1 else "RGB")
            if size is not None and made.size != size[::-1]:
                made = made.resize(size[::-1], pil.Resampling.BILINEAR)
            pixels = torch.from_numpy(np.array(made, dtype=np.uint8))
    except Exception as error:  # whatever a damaged file leads to
        raise DataError(f"The image {name} cannot be read ({error}). Repair it or remove it.") from error
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
            raise SettingError(f"{name} has {len(given)} values, but there are {channels} channels. Give one for each.")
    if mean is None or spread is None:
        train = splits["train"]
        numbers = len(_pixels(train, torch.tensor([0])).flatten()) * _SKIPPED
        some = torch.arange(0, len(train), max(1, len(train) // max(1, min(most, 2 * AT_ONCE // numbers))))
        parts = some.split(max(1, min(64, AT_ONCE // numbers)))
        flat = torch.cat([_pixels(train, part) for part in parts], dim=1)
        mean = mean if mean is not None else tuple(flat.mean(1).tolist())
        spread = spread if spread is not None else tuple(flat.std(1).clamp(min=1e-3).tolist())
    statistics = torch.tensor(mean, dtype=torch.float32), torch.tensor(spread, dtype=torch.float32)
    return {name: Standardised(examples, *statistics) for name, examples in splits.items()}


def _pixels(examples: Examples, rows: Tensor) -> Tensor:
    """Pixels of some images by channel, shape (C, P)."""
    images = examples.fetch(rows).inputs
    assert isinstance(images, Tensor)
    return images.transpose(0, 1).flatten(1)[:, ::_SKIPPED].double()
