"""Arrays, datasets and loaders that someone already has, as examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from lessen.core.ahead import Loading
from lessen.core.batch import Batch
from lessen.core.data import Data, View, check_labels
from lessen.core.errors import DataError
from lessen.core.examples import DatasetExamples, Examples, items_of
from lessen.core.seeds import Drawing
from lessen.core.settings import settings
from lessen.data.files import read_npy, read_npz
from lessen.data.labels import agree, class_names, known_labels
from lessen.data.split import Share, complete, split_name
from lessen.data.stored import (
    Stored,
    StoredExamples,
    StoredInputs,
    as_input,
    as_label,
    map_stored,
    same_length,
    stored,
    stored_inputs,
)


@settings
class Arrays:
    """The arrays of a `.npz` file: `x` and `y`, or `x_train`, `y_train`, `x_test` … one pair a split; or a `.npy` file.

    Inputs of type uint8 are taken for pixels and brought to the scale of 0 to 1; other integers (token ids) stay as
    they are; all else becomes float32. Labels that are integers are classes, numbered from 0. Arrays keep their type
    until a batch is fetched, and large ones stay on the disk, unless the file is compressed.

    Args:
        file: What `numpy.savez` or `numpy.save` wrote. Nothing in it is executed: arrays of Python objects are refused.
        labels: The labels of a `.npy` file of inputs, in another one; None where it has none.
        validation: Share to cut off the training examples, where there is no `x_validation`.
        test: Share to cut off for the test, where there is no `x_test`.
        seed: Which examples are cut off.
        augment: The view of a training batch, or None.
    """

    file: Path
    labels: Path | None = None
    validation: Share = 0.1
    test: Share = 0.2
    seed: NonNegativeInt = 0
    augment: View | None = None

    def load(self) -> Data:
        """The three splits.

        Raises:
            DataError: the file is not of this form, or its arrays are empty, do not fit together or are not finite.
        """
        return from_splits(
            self._pairs(),
            validation=self.validation,
            test=self.test,
            seed=self.seed,
            augment=self.augment,
            name=self.file.stem,
        )

    def _pairs(self) -> dict[str, tuple[Any, Any]]:
        if self.file.suffix == ".npy":
            return {"train": (read_npy(self.file), None if self.labels is None else read_npy(self.labels))}
        if self.labels is not None:
            raise DataError(f"{self.file} contains labels (y), so labels={self.labels} cannot be given too.")
        held, names = read_npz(self.file, _is_used)
        pairs = {
            split: (array, held.get("y" if name == "x" else "y_" + name.removeprefix("x_")))
            for name, array in held.items()
            if (split := _split_of(name)) is not None
        }
        if "train" not in pairs:
            raise DataError(
                f"{self.file} holds {', '.join(sorted(names))}, but x and y, or x_train and y_train, were expected."
            )
        return pairs


def _split_of(name: str) -> str | None:
    return "train" if name == "x" else split_name(name.removeprefix("x_")) if name.startswith("x_") else None


def _is_used(name: str) -> bool:
    return name == "y" or _split_of(name) is not None or (name.startswith("y_") and split_name(name[2:]) is not None)


@dataclass(frozen=True)
class CollatedExamples:
    """Examples of a map-style dataset that are put together by a function of the user's.

    Args:
        dataset: Items by index.
        collate: Makes `(inputs, labels)` of a list of items, as in a `DataLoader`.
        loader: The loader that it came with, whose worker processes then fetch.
        labels: Of all examples, where they are known without fetching; shape (N,).
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]
    loader: DataLoader[Any] | None = None
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def loading(self) -> Loading:
        """By the loader's workers; else when asked for, because a dataset need not be safe to use in threads."""
        return Loading(loader=self.loader, foreign=True)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order.

        Raises:
            DataError: the dataset or the function raises an error, or gives something else than arrays.
        """
        with Drawing() as drawing:
            items = items_of(self.dataset, index_N, drawing)
            try:
                made = self.collate(items)
            except Exception as error:
                raise DataError(
                    f"The collate_fn of the loader cannot collate items {index_N[:4].tolist()} "
                    f"({type(error).__name__}: {error}). It must return (inputs, labels)."
                ) from error
        inputs, labels = _pair(made)
        return Batch(map_stored(inputs, as_input), index_N, None if labels is None else as_label(labels))


def from_splits(
    splits: Mapping[str, Any],
    *,
    validation: float = 0.1,
    test: float = 0.2,
    seed: int = 0,
    classes: tuple[str, ...] | None = None,
    augment: View | None = None,
    name: str = "data",
) -> Data:
    """Data from whatever each split is: `(inputs, labels)`, inputs alone, a dataset, a loader, or examples.

    Args:
        splits: By name; what is missing is cut off "train".
        validation: Share to cut off for validation.
        test: Share to cut off for the test.
        seed: Which examples are cut off.
        classes: Names of the classes; None numbers them, where the labels of the training examples are integers.
        augment: The view of a training batch.
        name: What to call the data.

    Raises:
        DataError: something is empty, does not fit together or is not finite.
    """
    found = {split: examples_of(part, what=f"the {split} split") for split, part in splits.items()}
    made = complete(found, validation=validation, test=test, seed=seed)
    for split, examples in found.items():
        if isinstance(examples, StoredExamples):
            examples.check(f"the {split} split of {name}")
    data = Data(**made, classes=class_names(made["train"]) if classes is None else classes, augment=augment, name=name)
    for split, examples in made.items():
        check_labels(getattr(examples, "labels", None), f"the {split} split of {name}", data.classes)
    data.check(most=256)
    return data


def examples_of(part: Any, *, what: str) -> Examples:
    """Examples from arrays, a dataset or a loader.

    Raises:
        DataError: it is none of these, or its arrays do not fit together.
    """
    loader: DataLoader[Any] | None = None
    if isinstance(part, DataLoader):
        if isinstance(part.dataset, IterableDataset):
            return _collected(part, what)
        if part.collate_fn is not default_collate:
            return _with_labels(CollatedExamples(part.dataset, part.collate_fn, part))
        loader, part = part, part.dataset
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        part = part.tensors
    if isinstance(part, Dataset):
        return _with_labels(DatasetExamples(part, loader))
    if not isinstance(part, np.ndarray | Tensor | tuple | list | Mapping) and isinstance(part, Examples):
        return part
    inputs, labels = _pair(part)
    same_length(inputs, labels, what)
    return StoredExamples(inputs, labels)


def _with_labels(examples: DatasetExamples | CollatedExamples) -> Examples:
    labels = known_labels(examples.dataset) if len(examples) > 0 else None
    return examples if labels is None or not agree(examples, labels) else replace(examples, labels=labels)


def _pair(part: Any) -> tuple[StoredInputs, Stored | None]:
    if isinstance(part, tuple | list) and len(part) == 2:
        return stored_inputs(part[0]), None if part[1] is None else stored(part[1], "labels")
    return stored_inputs(part), None


def _collected(loader: DataLoader[Any], what: str) -> Examples:
    """What a loader without numbers yields, once, held in memory: every example needs a stable number."""
    pairs = [_pair(batch) for batch in loader]
    if not pairs:
        raise DataError(f"The loader of {what} yields nothing. Every split needs at least one example.")
    if any(isinstance(inputs, dict | tuple) for inputs, _ in pairs):
        raise DataError(f"The loader of {what} has an iterable dataset of several inputs. Give a map-style dataset.")
    inputs = torch.cat([torch.as_tensor(inputs) for inputs, _ in pairs])
    labels = [torch.as_tensor(label) for _, label in pairs if label is not None]
    return StoredExamples(inputs, torch.cat(labels) if len(labels) == len(pairs) else None)
