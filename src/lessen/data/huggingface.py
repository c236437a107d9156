"""Any data set of the Hugging Face hub, or one that `save_to_disk` wrote: images, numbers or text with a label."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from lessen.core.data import Data
from lessen.core.errors import DataError, did_you_mean, need
from lessen.core.files import check_regular
from lessen.core.ranges import InnerShare
from lessen.core.settings import settings
from lessen.data.arrays import from_splits
from lessen.data.images import Channels, Held, ImageExamples, opened, standardise
from lessen.data.labels import numbered
from lessen.data.split import complete, split_name
from lessen.data.stored import Stored, StoredExamples, as_label, stored
from lessen.data.transforms import AnyView

BLOCK = 10_000
"""Rows that are read and turned into numbers at a time."""


@settings
class HuggingFace:
    """A data set by its name on the hub, or by its folder on this machine.

    Args:
        name: As "uoft-cs/cifar10", or a folder that `save_to_disk` wrote.
        config: Which configuration of it, where there are several.
        revision: A commit of the data set, so that a run can be repeated.
        inputs: The column to learn from; None takes the first of "image", "img", "text", "sentence", "x" that is there.
        labels: The column to predict; None takes the first of "label", "labels", "fine_label", "y" that is there.
        tokenizer: For text: name or folder of a tokenizer of transformers.
        length: For text: tokens an example is cut or padded to.
        size: For images: height and width to resize to; None keeps the size, which all must then share.
        channels: For images: 3 for colour, 1 for grey.
        mean: For images: of each channel on the scale of 0 to 1; None measures it on training images.
        spread: For images: standard deviation of each channel; None measures it.
        limit: At most this many examples of each split.
        validation: Share to cut off the training examples, where there is no validation split.
        test: Share to cut off for the test, where there is no test split.
        seed: Which examples are cut off.
        augment: The view of a training batch, or None.
    """

    name: str
    config: str | None = None
    revision: str | None = None
    inputs: str | None = None
    labels: str | None = None
    tokenizer: str | None = None
    length: PositiveInt = 128
    size: tuple[PositiveInt, PositiveInt] | None = None
    channels: Channels = 3
    mean: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None
    limit: PositiveInt | None = None
    validation: InnerShare = 0.1
    test: InnerShare = 0.2
    seed: NonNegativeInt = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits.

        Raises:
            DataError: the data set cannot be found, or has no such column.
            MissingExtraError: `datasets` (or, for text, `transformers`) is not installed.
        """
        found = self._read()
        known = {split: rows for name, rows in found.items() if (split := split_name(name))}
        if "train" not in known:
            raise DataError(f"{self.name} has the splits {', '.join(found)}, but none to train on.")
        if self.limit is not None:
            known = {split: rows.select(range(min(self.limit, len(rows)))) for split, rows in known.items()}
        for split, rows in known.items():
            if len(rows) == 0:
                raise DataError(f"The {split} split of {self.name} has no examples. Every split needs at least one.")
        train = known["train"]
        source = _column(self.inputs, train, ("image", "img", "text", "sentence", "x"), self.name)
        target = _column(self.labels, train, ("label", "labels", "fine_label", "y"), self.name)
        names = getattr(train.features[target], "names", None)
        classes = tuple(names) if names else None
        shares: dict[str, Any] = {"validation": self.validation, "test": self.test, "seed": self.seed}
        kind = type(train.features[source]).__name__
        if kind == "Image":
            held = Held()
            images = {split: self._images(rows, source, target, split, held) for split, rows in known.items()}
            splits = standardise(complete(images, **shares), self.mean, self.spread, channels=self.channels)
            return Data(
                **splits, classes=classes or numbered(images["train"].labels), augment=self.augment, name=self.name
            )
        if getattr(train.features[source], "dtype", None) in {"string", "large_string"}:
            pairs: Mapping[str, Any] = {split: self._text(rows, source, target) for split, rows in known.items()}
        else:
            pairs = {split: (_array(rows, source), _array(rows, target)) for split, rows in known.items()}
        return from_splits(pairs, **shares, classes=classes, augment=self.augment, name=self.name)

    def _read(self) -> Mapping[str, Any]:
        datasets = need("datasets", "data")
        try:
            if Path(self.name).is_dir() and (found := _saved(Path(self.name))):
                read = datasets.load_from_disk(found)
            else:
                read = datasets.load_dataset(self.name, self.config, revision=self.revision)
        except (OSError, ValueError, RuntimeError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DataError(
                f"The data set {self.name!r} cannot be read ({first}). Check the name, or give a folder that "
                "save_to_disk wrote; fetching it needs a network."
            ) from error
        return read if isinstance(read, Mapping) else {"train": read}

    def _images(self, rows: Any, source: str, target: str, split: str, held: Held) -> ImageExamples:
        names = [f"{i} of the {split} split of {self.name}" for i in range(len(rows))]
        labels = as_label(stored(_array(rows, target), "labels"))
        coded = rows.cast_column(source, need("datasets", "data").Image(decode=False))
        return ImageExamples(lambda i: _image(coded[i][source]), names, labels, self.size, self.channels, held)

    def _text(self, rows: Any, source: str, target: str) -> StoredExamples:
        if self.tokenizer is None:
            raise DataError(f"Column {source!r} of {self.name} is text. Give tokenizer= to turn it into token ids.")
        transformers = need("transformers", "zoo")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.tokenizer, trust_remote_code=False)
        except (OSError, ValueError) as error:
            first, *_ = [*str(error).splitlines(), type(error).__name__]
            raise DataError(f"There is no tokenizer {self.tokenizer!r} ({first}).") from error
        settings_ = {"padding": "max_length", "truncation": True, "max_length": self.length, "return_tensors": "np"}
        pieces = [tokenizer(rows[first : first + BLOCK][source], **settings_) for first in range(0, len(rows), BLOCK)]
        words: dict[str, Stored] = {
            name: np.concatenate([np.asarray(piece[name], np.int32) for piece in pieces]) for name in pieces[0]
        }
        return StoredExamples(words, stored(_array(rows, target), "labels"))


def _image(coded: Mapping[str, Any]) -> Any:
    """An image of which a data set has the bytes, or the path of a file on this machine: no address is fetched."""
    if coded["bytes"] is not None:
        return opened(io.BytesIO(coded["bytes"]))
    check_regular(Path(coded["path"]), error=DataError, expected="an image")
    return opened(coded["path"])


def _array(rows: Any, column: str) -> Any:
    """A column of numbers as one array, without a Python object for each number; other columns are not decoded."""
    alone = rows.select_columns(column).with_format("numpy")
    return np.concatenate([np.asarray(alone[first : first + BLOCK][column]) for first in range(0, len(rows), BLOCK)])


def _column(asked: str | None, rows: Any, usual: tuple[str, ...], name: str) -> str:
    if asked is None:
        asked = next((column for column in usual if column in rows.column_names), None)
        if asked is None:
            raise DataError(
                f"{name} has the columns {', '.join(rows.column_names)}. Say which with inputs= and labels=."
            )
    if asked not in rows.column_names:
        raise DataError(f"{name} has no column {asked!r}: {did_you_mean(asked, rows.column_names)}")
    return asked


def _saved(folder: Path) -> str | None:
    marks = ("dataset_dict.json", "state.json")
    return str(folder) if any((folder / mark).is_file() for mark in marks) else None
