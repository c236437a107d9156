"""A folder of images: one folder a class, inside one folder a split or not."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch
from pydantic import NonNegativeInt, PositiveInt

from lessen.core.data import Data
from lessen.core.errors import DataError, need
from lessen.core.ranges import InnerShare
from lessen.core.settings import settings
from lessen.data.images import Channels, Held, ImageExamples, opened, standardise
from lessen.data.split import complete, split_name
from lessen.data.transforms import AnyView

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}


@settings
class ImageFolder:
    """Images in `folder/CLASS/*.png`, or in `folder/{train,validation,test}/CLASS/*.png`.

    Threads decode them ahead of the step. Up to 256 MiB of decoded images are held; others are decoded in every epoch.

    Args:
        folder: Where they are. A split that has no folder is cut off the training images.
        size: Height and width to resize to, in pixels; None keeps the size of the images, which must all be of one.
        channels: 3 for colour, 1 for grey.
        mean: Of each channel on the scale of 0 to 1, to subtract; None measures it on training images.
        spread: Standard deviation of each channel, to divide by; None measures it on training images.
        validation: Share to cut off the training images for validation, where there is no such folder.
        test: Share to cut off for the test, where there is no such folder.
        seed: Which images are cut off.
        augment: The view of a training batch, or None.
    """

    folder: Path
    size: tuple[PositiveInt, PositiveInt] | None = None
    channels: Channels = 3
    mean: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None
    validation: InnerShare = 0.1
    test: InnerShare = 0.2
    seed: NonNegativeInt = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits; images are decoded when they are first asked for.

        Raises:
            DataError: there is no such folder, no images in it, or a class that only another split knows.
        """
        if not self.folder.is_dir():
            raise DataError(f"There is no folder {self.folder}. Give a folder that holds one folder of images a class.")
        inside = _folders(self.folder)
        roots = {name: folder for folder in inside if (name := split_name(folder.name))} or {"train": self.folder}
        if "train" not in roots:
            raise DataError(f"{self.folder} has {', '.join(sorted(roots))}, but no folder 'train' to learn from.")
        classes = tuple(folder.name for folder in _folders(roots["train"]))
        held = Held()
        found = {name: self._examples(root, classes, held) for name, root in roots.items()}
        splits = complete(found, validation=self.validation, test=self.test, seed=self.seed)
        splits = standardise(splits, self.mean, self.spread, channels=self.channels)
        return Data(**splits, classes=classes, augment=self.augment, name=self.folder.name)

    def _examples(self, root: Path, classes: tuple[str, ...], held: Held) -> ImageExamples:
        extra = {folder.name for folder in _folders(root)} - set(classes)
        if extra:
            raise DataError(
                f"{root} has classes that the training images do not have: {', '.join(sorted(extra)[:5])}. "
                f"Known are {', '.join(classes[:10])}."
            )
        found = [_images(root / name) for name in classes]
        files = list(itertools.chain.from_iterable(found))
        if not files:
            raise DataError(
                f"No images in {root}. Expected {root}/CLASS/*.png, one folder a class; "
                f"known endings are {', '.join(sorted(SUFFIXES))}."
            )
        need("PIL.Image", "data")
        labels = torch.arange(len(found)).repeat_interleave(torch.tensor([len(part) for part in found]))
        return ImageExamples(lambda i: opened(files[i]), files, labels, self.size, self.channels, held, files=True)


def _images(root: Path) -> list[str]:
    """The images below a folder, in order; links to folders are not followed.

    Raises:
        DataError: something that is named like an image is no file: opening a named pipe would wait for ever.
    """
    found, folders = [], [str(root)]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir():
                        folders += [] if entry.is_symlink() else [entry.path]
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                        if not entry.is_file():
                            raise DataError(
                                f"{entry.path} is named like an image, but is not a readable file. Remove it."
                            )
                        found.append(entry.path)
    except OSError as error:
        raise DataError(f"The folder {root} cannot be read ({error}).") from error
    return sorted(found, key=lambda path: path.replace(os.sep, "\0"))  # folder by folder, whatever they are called


def _folders(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
