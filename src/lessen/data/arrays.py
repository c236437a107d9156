"""Arrays, datasets and loaders that someone already has, as examples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeInt
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, default_collate

from lessen.core.data import ArrayExamples, Batch, Data, DatasetExamples, Examples, Inputs, View, map_inputs
from lessen.core.errors import DataError
from lessen.core.settings import settings
from lessen.data.split import Share, complete, split_name


@settings
class Arrays:
    """The arrays of a `.npz` file: `x` and `y`, or `x_train`, `y_train`, `x_test` … one pair a split.

    Inputs of type uint8 are taken for pixels and brought to the scale of 0 to 1; other whole numbers (words) stay as
    they are; all else becomes float32. Labels that are whole numbers are classes, numbered from 0.

    Args:
        file: What `numpy.savez` wrote. Nothing in it is executed: arrays of Python objects are refused.
        validation: Share to cut off the training examples, where there is no `x_validation`.
        test: Share to cut off for the test, where there is no `x_test`.
        seed: Which examples are cut off.
        augment: The view of a training batch, or None.
    """

    file: Path
    validation: Share = 0.1
    test: Share = 0.2
    seed: NonNegativeInt = 0
    augment: View | None = None

    def load(self) -> Data:
        """The three splits.

        Raises:
            DataError: the file is not of this form, or its arrays are empty, do not fit together or are not finite.
        """
        if not self.file.is_file():
            raise DataError(f"There is no file {self.file}. Give the path of a .npz file.")
        pairs: dict[str, tuple[Any, Any]] = {}
        try:
            with np.load(self.file, allow_pickle=False) as arrays:
                held = {name: arrays[name] for name in arrays.files}
        except (OSError, ValueError, EOFError, AttributeError) as error:
            raise DataError(
                f"{self.file} is not a .npz file of plain arrays ({error}). Write it with numpy.savez."
            ) from error
        for name, array in held.items():
            split = "train" if name == "x" else split_name(name.removeprefix("x_")) if name.startswith("x_") else None
            if split is not None:
                pairs[split] = (array, held.get("y" if name == "x" else "y_" + name.removeprefix("x_")))
        if "train" not in pairs:
            raise DataError(
                f"{self.file} holds {', '.join(sorted(held))}, but x and y, or x_train and y_train, were expected."
            )
        return from_splits(
            pairs, validation=self.validation, test=self.test, seed=self.seed, augment=self.augment, name=self.file.stem
        )


@dataclass(frozen=True)
class CollatedExamples:
    """Examples of a map-style dataset that are put together by a function of the user's.

    Args:
        dataset: Items by number.
        collate: Makes `(inputs, labels)` of a list of items, as in a `DataLoader`.
    """

    dataset: Any
    collate: Callable[[list[Any]], Any]

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        inputs, labels = _pair(self.collate([self.dataset[int(i)] for i in index_N]))
        return Batch(inputs, index_N, labels)


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
        classes: Names of the classes; None numbers them, where the labels of the training examples are whole numbers.
        augment: The view of a training batch.
        name: What to call the data.

    Raises:
        DataError: something is empty, does not fit together or is not finite.
    """
    found = {split: examples_of(part, what=f"the {split} split") for split, part in splits.items()}
    made = complete(found, validation=validation, test=test, seed=seed)
    if classes is None:
        classes = _classes(made["train"])
    data = Data(**made, classes=classes, augment=augment, name=name)
    in_memory = all(isinstance(examples, ArrayExamples) for examples in made.values())
    data.check(most=max(len(examples) for examples in made.values()) if in_memory else 256)
    return data


def examples_of(part: Any, *, what: str) -> Examples:
    """Examples from arrays, a dataset or a loader.

    Raises:
        DataError: it is none of these, or its arrays do not fit together.
    """
    if isinstance(part, DataLoader):
        if isinstance(part.dataset, IterableDataset):
            return _collected(part, what)
        if part.collate_fn is not default_collate:
            return CollatedExamples(part.dataset, part.collate_fn)
        part = part.dataset
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        part = part.tensors
    if isinstance(part, Dataset):
        return DatasetExamples(part)
    if not isinstance(part, np.ndarray | Tensor | tuple | list | Mapping) and isinstance(part, Examples):
        return part
    inputs, labels = _pair(part)
    _same_length(inputs, labels, what)
    return ArrayExamples(inputs, labels)


def _pair(part: Any) -> tuple[Inputs, Tensor | None]:
    if isinstance(part, tuple | list) and len(part) == 2:
        return _inputs(part[0]), None if part[1] is None else _labels(part[1])
    return _inputs(part), None


def _inputs(value: Any) -> Inputs:
    if isinstance(value, Mapping):
        return {str(name): _tensor(item) for name, item in value.items()}
    if isinstance(value, tuple | list) and value and isinstance(value[0], np.ndarray | Tensor):
        return tuple(_tensor(item) for item in value)
    return _tensor(value)


def _tensor(value: Any) -> Tensor:
    tensor = _plain(value, "inputs")
    if tensor.dtype == torch.uint8:
        return tensor.float().div_(255)
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _labels(value: Any) -> Tensor:
    tensor = _plain(value, "labels")
    return tensor.float() if tensor.is_floating_point() else tensor.long()


def _plain(value: Any, what: str) -> Tensor:
    try:
        return value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"The {what} are a {type(value).__name__} that is not an array of numbers ({error}). Give NumPy arrays or "
            "torch tensors, with classes numbered from 0."
        ) from error


def _same_length(inputs: Inputs, labels: Tensor | None, what: str) -> None:
    lengths: list[int] = []
    map_inputs(inputs, lambda value: lengths.append(value.shape[0] if value.ndim else -1))
    if labels is not None:
        lengths.append(labels.shape[0] if labels.ndim else -1)
    if -1 in lengths or len(set(lengths)) > 1:
        raise DataError(
            f"The arrays of {what} hold {lengths} examples along their first axis (inputs first, labels last). "
            "Every one must hold the same number."
        )


def _collected(loader: DataLoader[Any], what: str) -> Examples:
    """What a loader without numbers yields, once, held in memory: every example needs a stable number."""
    pairs = [_pair(batch) for batch in loader]
    if not pairs:
        raise DataError(f"The loader of {what} yields nothing. Every split needs at least one example.")
    if not all(isinstance(inputs, Tensor) for inputs, _ in pairs):
        raise DataError(f"The loader of {what} has an iterable dataset of several inputs. Give a map-style dataset.")
    inputs = torch.cat([inputs for inputs, _ in pairs if isinstance(inputs, Tensor)])
    labels = [label for _, label in pairs if label is not None]
    return ArrayExamples(inputs, torch.cat(labels) if len(labels) == len(pairs) else None)


def _classes(train: Examples) -> tuple[str, ...] | None:
    names = getattr(getattr(train, "dataset", None), "classes", None)
    if names:
        return tuple(str(name) for name in names)
    labels = getattr(train, "labels", None)
    if labels is None:
        found = [train.fetch(part).labels for part in torch.arange(len(train)).split(512)]
        known = [label for label in found if label is not None]
        labels = torch.cat(known) if len(known) == len(found) else None
    if labels is None or labels.is_floating_point() or labels.ndim != 1:
        return None
    return tuple(str(number) for number in range(int(labels.max()) + 1))
