"""Fashion-MNIST: 70,000 articles of clothing in 28 x 28 pixels and ten classes.

Xiao, Rasul & Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning Algorithms, 2017,
arXiv:1708.07747.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from lessen.core.data import ArrayExamples, Data
from lessen.core.errors import DataError, need
from lessen.core.settings import settings
from lessen.data.places import CACHE, usual
from lessen.data.split import cut, shuffled
from lessen.data.transforms import AnyView

CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
MEAN, SPREAD = 0.2860, 0.3530

_MOST_BYTES = 2**30
"""Of the pixels of the 60,000 training images, on the scale of 0 to 1."""

_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)


@settings
class FashionMNIST:
    """Fashion-MNIST as standardised images of shape (1, 28, 28), float32.

    Args:
        root: Folder with the four `*-ubyte.gz` files. None looks in `$LESSEN_DATA/fashion-mnist`,
            `~/.cache/lessen/fashion-mnist` and where Debian's package `dataset-fashion-mnist` puts them, and then
            lets torchvision fetch them into the cache.
        validation: Of the 60,000 training images, how many to choose settings by.
        limit: At most this many images in each split, for a quick look; None is all of them.
        seed: Which training images are for validation.
        augment: The view of a training batch, or None.
    """

    root: Path | None = None
    validation: PositiveInt = 5000
    limit: PositiveInt | None = None
    seed: NonNegativeInt = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits; the test split is the one that was published.

        Raises:
            DataError: the files are nowhere, or damaged.
            MissingExtraError: they would have to be fetched, and torchvision is not installed.
        """
        folder = _find(self.root)
        labels = read_idx(folder / _FILES[1])
        order = shuffled(len(labels), torch.from_numpy(labels).long(), seed=self.seed, purpose="validation")
        size = cut(len(labels), self.validation, "validation")
        images = read_idx(folder / _FILES[0])
        test = read_idx(folder / _FILES[2]), read_idx(folder / _FILES[3])
        every = torch.arange(len(test[1]))
        return Data(
            train=_examples(images, labels, order[size:][: self.limit]),
            validation=_examples(images, labels, order[:size][: self.limit]),
            test=_examples(*test, every[: self.limit]),
            classes=CLASSES,
            augment=self.augment,
            name="fashion_mnist",
        )


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array of bytes in a gzipped IDX file, the format of MNIST: a header of big-endian sizes, then the bytes.

    Raises:
        DataError: the file is not of this format, or cut short.
    """
    try:
        with gzip.open(path) as stream:
            start = stream.read(4)
            axes = start[3] if len(start) == 4 else 0
            sizes = stream.read(4 * axes)
            shape = tuple(np.frombuffer(sizes, ">u4").tolist()) if len(sizes) == 4 * axes else (0,)
            count = math.prod(shape)
            # One byte more than there should be, so that a file that goes on for ever is not read.
            content = bytearray(stream.read(count + 1) if count <= _MOST_BYTES else b"")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}). Fetch it again.") from error
    if start[:3] != b"\0\0\x08" or axes == 0 or len(content) != count:
        raise DataError(f"{path} is not a whole IDX file of bytes. Fetch it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)  # of a bytearray, because torch warns of what is read-only


def _examples(images_NHW: NDArray[np.uint8], labels_N: NDArray[np.uint8], rows: Tensor) -> ArrayExamples:
    pixels = torch.from_numpy(images_NHW[rows.numpy()]).unsqueeze(1)
    return ArrayExamples(pixels.float().div_(255).sub_(MEAN).div_(SPREAD), torch.from_numpy(labels_N).long()[rows])


def _find(root: Path | None) -> Path:
    cache = Path.home() / CACHE
    places = [*usual("fashion-mnist"), Path("/usr/share/datasets/fashion-mnist"), cache / "FashionMNIST" / "raw"]
    if root is not None:
        places = [root]
    for place in places:
        if all((place / name).is_file() for name in _FILES):
            return place
    looked = ", ".join(str(place) for place in places)
    advice = (
        "Install Debian's package dataset-fashion-mnist, or put the four *-ubyte.gz files into a folder and name it "
        "with root= or the environment variable LESSEN_DATA."
    )
    if root is not None:
        raise DataError(f"{root} does not hold the four files of Fashion-MNIST ({', '.join(_FILES)}). {advice}")
    vision = need("torchvision.datasets", "zoo")
    try:
        vision.FashionMNIST(root=str(cache), train=True, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(f"Fashion-MNIST is in none of {looked}, and fetching it failed ({error}). {advice}") from error
    return cache / "FashionMNIST" / "raw"
