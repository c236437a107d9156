"""Labels read without decoding what they belong to, and the classes that follow from them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lessen.core.batch import IGNORED
from lessen.core.errors import DataError
from lessen.core.examples import Examples, SubsetExamples, batches
from lessen.data.roles import UNSAID, Roles, is_label_name
from lessen.data.stored import StoredExamples, blocks, label_of

NOTICED = 10_000
"""Examples from which a pass over a dataset for its labels alone is worth a notice."""

COMPARED = 8
"""Examples at which labels that a dataset tells are compared with those that it gives."""

VOID = 255
"""The label of what does not count in maps of 8 bits, by habit."""

MOST_CLASSES = 100_000
"""Classes that are named without asking whether so many are meant."""


def known_labels(dataset: Any, roles: Roles | None = None) -> Tensor | None:
    """The labels that a dataset tells without reading its items, shape (N,), or None.

    Looked at are `targets`, `labels` and `samples` (as torchvision has them), a tensor of a `TensorDataset`, the items
    of a list, a column of a Hugging Face data set, and what a `Subset` or `ConcatDataset` is made of. They are a guess:
    `agree` compares them with what fetching gives.

    Args:
        dataset: Any.
        roles: Which part of an item is its label.
    """
    roles = Roles() if roles is None else roles
    if isinstance(dataset, Subset):
        whole = known_labels(dataset.dataset, roles)
        return None if whole is None else whole[torch.as_tensor(list(dataset.indices))]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part, roles) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if found and len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        place = roles.labels if isinstance(roles.labels, int) else 1
        return _numbers(dataset.tensors[place], len(dataset)) if 0 <= place < len(dataset.tensors) > 1 else None
    if is_rows(dataset):
        column = label_column(dataset, roles)
        return None if column is None else _numbers(_column(dataset, column), len(dataset))
    if isinstance(dataset, list):
        return _numbers([roles.apart(item, f"Item {i} of the list")[1] for i, item in enumerate(dataset)], len(dataset))
    for name in ("targets", "labels", "_labels"):
        labels = _numbers(getattr(dataset, name, None), len(dataset))
        if labels is not None:
            return labels
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and all(isinstance(sample, tuple) and len(sample) == 2 for sample in samples):
        return _numbers([label for _, label in samples], len(dataset))
    return None


def is_rows(value: Any) -> bool:
    """Whether something is a `datasets.Dataset` of Hugging Face, or is used as one."""
    return isinstance(getattr(value, "features", None), Mapping) and hasattr(value, "column_names")


def label_column(rows: Any, roles: Roles) -> str | None:
    """The column of a Hugging Face data set that holds the labels, or None."""
    if roles.labels is not UNSAID:
        return roles.labels if roles.labels in rows.features else None
    found = [name for name in rows.features if is_label_name(name)]
    return found[0] if len(found) == 1 else None


def _column(rows: Any, column: str) -> Any:
    """A column, without a Python object for each number; other columns are not decoded."""
    try:
        return np.asarray(rows.select_columns(column).with_format("numpy")[:][column])
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def agree(examples: Examples, labels: Tensor) -> bool:
    """Whether labels are those that fetching gives, seen at a few examples: a dataset may change them on the way."""
    chosen = torch.linspace(0, len(examples) - 1, min(COMPARED, len(examples))).round().long()
    given = examples.fetch(chosen).labels
    return given is not None and given.shape == labels[chosen].shape and torch.equal(given, labels[chosen])


def read_labels(examples: Examples) -> Tensor | None:
    """All labels, where each is one integer: shape (N,), int64; else None.

    Where nothing tells them, every example is fetched once.
    """
    labels: Tensor | None = getattr(examples, "labels", None)
    if labels is not None:
        return labels if _are_classes(labels) else None
    found: list[Tensor] = []
    for batch in batches(examples, size=128):
        if batch.labels is None or not _are_classes(batch.labels):
            return None
        if not found:
            _notice(len(examples))
        found.append(batch.labels)
    return torch.cat(found)


def class_names(train: Examples) -> tuple[str, ...] | None:
    """What the classes of the training examples are called; None where labels are not numbers of classes.

    Raises:
        DataError: the labels are not numbered from 0.
    """
    part: Any = train
    while isinstance(part, SubsetExamples):
        part = part.examples
    dataset: Any = getattr(part, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    if is_rows(dataset):
        column = label_column(dataset, part.roles)
        names = getattr(dataset.features.get(column), "names", None)
    else:
        names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names and _is_class(train.fetch(torch.zeros(1, dtype=torch.int64)).labels):
        return tuple(str(name) for name in names)
    maps = _maps(part)
    if maps is not None:
        return numbered_maps(maps)
    labels = read_labels(train)
    return None if labels is None else numbered(labels)


def _maps(examples: Examples) -> Iterator[Tensor] | None:
    """All labels of a set of examples, some at a time, if they are maps of integers: shape (N, H, W) or more axes.

    Sequences (N, L) are left out: what they count can be positions of a row, or the tokens of a vocabulary.
    """
    if len(examples) == 0 or getattr(examples, "labels", None) is not None:
        return None
    one = examples.fetch(torch.zeros(1, dtype=torch.int64)).labels
    if one is None or one.ndim < 3 or one.is_floating_point():
        return None
    if isinstance(examples, StoredExamples) and examples.targets is not None:
        return (label_of(block, examples.ignored) for _, block in blocks(examples.targets))
    _notice(len(examples))
    return (batch.labels for batch in batches(examples, size=32) if batch.labels is not None)


def numbered_maps(maps: Iterable[Tensor]) -> tuple[str, ...]:
    """The numbers 0 to the largest label of maps, as names; `IGNORED` is none of them.

    Raises:
        DataError: labels are not numbered from 0, or 255 stands apart from the others as if it meant "ignored".

    >>> numbered_maps([torch.tensor([[0, 2, -100]])])
    ('0', '1', '2')
    """
    found: set[int] = set()
    for labels in maps:
        found.update(labels.unique().tolist())
        found.discard(IGNORED)
        if len(found) > MOST_CLASSES:
            break
    if not found:
        raise DataError(f"Every label is ignored ({IGNORED}), so there is nothing to learn.")
    rest = found - {VOID}
    if VOID in found and rest and max(rest) < VOID - 1:
        raise DataError(
            f"The labels are maps of {min(rest)} to {max(rest)}, and of {VOID}. If {VOID} marks what does not count, "
            f"give ignored={VOID}; if it is a class, give classes=."
        )
    return numbered(torch.tensor(sorted(found)))


def numbered(labels_N: Tensor) -> tuple[str, ...]:
    """The numbers 0 to the largest label, as names.

    Raises:
        DataError: the labels are negative, begin at 1, or are so large that they cannot be numbers of classes.

    >>> numbered(torch.tensor([2, 0, 2]))
    ('0', '1', '2')
    """
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < 0 or high >= max(MOST_CLASSES, len(labels_N)) or (low == 1 and len(labels_N.unique()) == high):
        raise DataError(
            f"The training labels are {len(labels_N.unique())} different integers from {low} to {high}, but "
            "classes are numbered from 0. Renumber them with numpy.unique(labels, return_inverse=True)[1], or give "
            "labels of type float32 if they are numbers to predict."
        )
    return tuple(str(number) for number in range(high + 1))


def _notice(count: int) -> None:
    if count > NOTICED:
        warnings.warn(
            f"The dataset does not list the labels of its {count} training examples, so each of them is read once. "
            "Give the dataset a list `targets`, or give classes=, to save this.",
            stacklevel=3,
        )


def _is_class(label: Tensor | None) -> bool:
    return label is not None and not label.is_floating_point()


def _are_classes(labels: Tensor) -> bool:
    return labels.ndim == 1 and not labels.is_floating_point()


def _numbers(value: Any, count: int) -> Tensor | None:
    if not isinstance(value, list | tuple | np.ndarray | Tensor) or len(value) != count:
        return None
    try:
        labels = value if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
    except (TypeError, ValueError):
        return None
    if labels.ndim != 1 or labels.is_complex() or labels.is_quantized:
        return None
    return labels.float() if labels.is_floating_point() else labels.long()
