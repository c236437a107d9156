"""Labels read without decoding what they belong to, and the classes that follow from them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, Subset, TensorDataset

from lessen.core.errors import DataError
from lessen.core.examples import Examples, SubsetExamples, batches

NOTICED = 10_000
"""Examples from which a pass over a dataset for its labels alone is worth a notice."""

MOST_CLASSES = 100_000
"""Classes that are named without asking whether so many are meant."""


def known_labels(dataset: Any) -> Tensor | None:
    """The labels that a dataset tells without reading its items, shape (N,), or None.

    Looked at are `targets`, `labels` and `samples` (as torchvision has them), the second tensor of a `TensorDataset`,
    and what a `Subset` or `ConcatDataset` is made of.
    """
    if isinstance(dataset, Subset):
        whole = known_labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(list(dataset.indices))]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        found = [part for part in parts if part is not None]
        return torch.cat(found) if found and len(found) == len(parts) else None
    if isinstance(dataset, TensorDataset):
        return _numbers(dataset.tensors[1], len(dataset)) if len(dataset.tensors) == 2 else None
    for name in ("targets", "labels"):
        labels = _numbers(getattr(dataset, name, None), len(dataset))
        if labels is not None:
            return labels
    samples = getattr(dataset, "samples", None)
    if isinstance(samples, list) and all(isinstance(sample, tuple) and len(sample) == 2 for sample in samples):
        return _numbers([label for _, label in samples], len(dataset))
    return None


def agree(examples: Examples, labels: Tensor) -> bool:
    """Whether labels are those that fetching gives, seen at three examples: a dataset may change them on the way."""
    chosen = torch.linspace(0, len(examples) - 1, min(3, len(examples))).round().long()
    given = examples.fetch(chosen).labels
    return given is not None and torch.equal(given, labels[chosen])


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
        if not found and len(examples) > NOTICED:
            warnings.warn(
                f"The dataset does not list the labels of its {len(examples)} training examples, so each of them is "
                "read once. Give the dataset a list `targets`, or give classes=, to save this.",
                stacklevel=2,
            )
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
    dataset = getattr(part, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if isinstance(names, list | tuple) and names:
        return tuple(str(name) for name in names)
    labels = read_labels(train)
    return None if labels is None else numbered(labels)


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
