"""What a `DataLoader` adds to its dataset: which examples it chooses, and streams without numbers.

The order of examples and the size of batches belong to the stage of training, so those of a loader are not used. What
changes which examples are seen, or how often, is respected or refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    WeightedRandomSampler,
)
from torch.utils.data.distributed import DistributedSampler

from lessen.core.errors import DataError
from lessen.core.seeds import Drawing, generators_of
from lessen.data.items import Parts, checked, collated
from lessen.data.roles import Roles
from lessen.data.stored import Stored, StoredExamples, StoredInputs

COLLECTED = 256
"""Examples of a stream that are put together at a time."""

FREE = 0.5
"""Share of the free memory that a stream may fill."""


def chosen_by(loader: DataLoader[Any], what: str) -> Tensor | None:
    """The numbers of the examples that a loader chooses from its dataset, in ascending order; None if all of them.

    Args:
        loader: Over a map-style dataset.
        what: What to call it in errors.

    Raises:
        DataError: it chooses others in each pass, some of them more often than once, or composes batches.
    """
    if loader.generator is not None:
        warnings.warn(
            f"The generator of the loader of {what} is not used: the order of examples follows from the seed of the "
            "run (seed=).",
            stacklevel=2,
        )
    sampler: Any = loader.sampler
    if loader.batch_size is None:
        if loader.batch_sampler is None:
            raise DataError(
                f"The loader of {what} has batch_size=None, so its items may be whole batches. Give the dataset itself "
                "where an item is one example."
            )
        if type(loader.batch_sampler) is not BatchSampler:
            raise DataError(
                f"The loader of {what} has a batch_sampler ({type(loader.batch_sampler).__name__}), but lessen "
                "composes batches itself (Fit(batch=)). Give DataLoader(dataset, sampler=...), or the dataset."
            )
        sampler = loader.batch_sampler.sampler
    dataset: Any = loader.dataset
    return _chosen(sampler, len(dataset), what)


def _chosen(sampler: Sampler[Any] | Iterable[Any], whole: int, what: str) -> Tensor | None:
    name = type(sampler).__name__
    if isinstance(sampler, DistributedSampler):
        raise DataError(
            f"The loader of {what} has a {name}, but lessen shares each batch among the processes itself. Give the "
            "loader without a sampler."
        )
    if isinstance(sampler, WeightedRandomSampler) or (isinstance(sampler, RandomSampler) and sampler.replacement):
        raise DataError(
            f"The loader of {what} has a {name} that draws with replacement, but lessen shows each example once a "
            "pass. Repeat the rare examples instead, as Subset(dataset, indices) with their indices several times, "
            "and give validation and test splits of their own; or leave the sampler out."
        )
    if isinstance(sampler, RandomSampler) and sampler.num_samples != len(sampler.data_source):
        raise DataError(
            f"The loader of {what} has a RandomSampler of {sampler.num_samples} of {len(sampler.data_source)} "
            "examples, others in each pass. Give Subset(dataset, indices) for a fixed choice, or fewer steps (steps=)."
        )
    looks = []
    with Drawing(generators_of(sampler)) as drawing:
        for number in range(2):
            drawing.item(number)
            looks.append(_numbers(islice(iter(sampler), whole + 1), sampler, what))
    if len(set(looks[0])) < len(looks[0]):
        raise DataError(
            f"The {name} of the loader of {what} yields some examples several times. lessen shows each once a pass. "
            "Give Subset(dataset, indices), in which an index may be repeated, and validation and test splits of their "
            "own."
        )
    if set(looks[0]) != set(looks[1]):
        raise DataError(
            f"The {name} of the loader of {what} yields other examples in each pass, but a split is a fixed set. Give "
            "Subset(dataset, indices) for a fixed choice."
        )
    found = torch.tensor(sorted(looks[0]), dtype=torch.int64)
    if len(found) and not 0 <= int(found[0]) <= int(found[-1]) < whole:
        raise DataError(
            f"The {name} of the loader of {what} yields numbers from {int(found[0])} to {int(found[-1])}, but the "
            f"dataset has {whole} items."
        )
    return None if len(found) == whole else found


def _numbers(given: Iterator[Any], sampler: Any, what: str) -> list[int]:
    found = []
    for one in given:
        if not isinstance(one, int | np.integer | Tensor) or (isinstance(one, Tensor) and one.numel() != 1):
            raise DataError(
                f"The {type(sampler).__name__} of the loader of {what} yields a {type(one).__name__}, but numbers of "
                "items were expected."
            )
        found.append(int(one))
    return found


def collected(stream: Any, roles: Roles, what: str) -> StoredExamples:
    """What a stream yields, once, held in memory: every example needs a number that stays.

    Args:
        stream: An iterable dataset, or a loader of one.
        roles: Which parts of what it yields are what.
        what: What to call it in errors.

    Raises:
        DataError: it yields nothing, what does not fit together, or more than half of the free memory.
    """
    room, pieces, taken = FREE * psutil.virtual_memory().available, list[Parts](), 0
    with Drawing(generators_of(stream)) as drawing:
        drawing.item(0)
        for piece in _pieces(stream, roles, what):
            pieces.append(piece)
            taken += sum(array.nbytes for _, array in _named(piece))
            if taken > room:
                raise DataError(
                    f"The stream of {what} has yielded {taken / 2**30:.1f} GiB and did not end, but it has to be held "
                    "in memory. Give a map-style dataset (with __len__ and __getitem__)."
                )
    if not pieces:
        raise DataError(f"The loader of {what} yields nothing. Every split needs at least one example.")
    inputs, _ = pieces[0]
    joined = {
        name: _joined([dict(_named(piece))[name] for piece in pieces], name, inputs, roles, what)
        for name, _ in _named(pieces[0])
    }
    label = joined.pop(_LABEL, None)
    made: StoredInputs
    if isinstance(inputs, dict):
        made = {str(name): array for name, array in joined.items()}
    else:
        made = tuple(joined.values()) if isinstance(inputs, tuple) else next(iter(joined.values()))
    return StoredExamples(made, label, roles.ignored)


_LABEL = object()


def _named(parts: Parts) -> Iterator[tuple[Any, Stored]]:
    inputs, labels = parts
    if isinstance(inputs, dict):
        yield from inputs.items()
    else:
        yield from enumerate(inputs if isinstance(inputs, tuple) else (inputs,))
    if labels is not None:
        yield _LABEL, labels


def _pieces(stream: Any, roles: Roles, what: str) -> Iterator[Parts]:
    """What a stream yields, as batches: one at a time where it yields batches itself."""
    items = iter(stream)
    first = next(items, None)
    if first is None:
        return
    items = chain([first], items)
    if isinstance(stream, DataLoader) and (stream.batch_size is not None or _is_batch(first, roles, what)):
        roles.check_unpadded(f"the loader of {what} puts the items of its stream together")
        yield from (checked(made, roles, None, f"What the loader of {what} yields") for made in items)
        return
    number = 0
    while some := list(islice(items, COLLECTED)):
        yield collated(some, roles, range(number, number + len(some)), f"stream of {what}")
        number += len(some)


def _is_batch(item: Any, roles: Roles, what: str) -> bool:
    """Whether a stream that is not batched by its loader yields batches: its label has an axis for them."""
    _, label = roles.apart(item, f"What the loader of {what} yields")
    if label is None:
        raise DataError(
            f"The loader of {what} has batch_size=None and no labels, so it cannot be seen whether it yields examples "
            "or batches. Give the iterable dataset itself, or a batch_size."
        )
    return getattr(label, "ndim", 0) > 0


def _joined(arrays: list[Stored], name: Any, inputs: StoredInputs, roles: Roles, what: str) -> Stored:
    tensors = [torch.as_tensor(array) for array in arrays]
    shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
    if len(shapes) > 1:
        pad = _padding(name, inputs, roles)
        if pad is None or len({(len(shape), shape[1:]) for shape in shapes}) > 1:
            raise DataError(
                f"The batches of {what} differ in shape: {', '.join(map(str, sorted(shapes)[:3]))} for each example. "
                "Give pad= for sequences of different length, or bring all to one shape."
            )
        longest = max(shape[0] for shape in shapes)
        tensors = [
            torch.cat([one, one.new_full((len(one), longest - one.shape[1], *one.shape[2:]), pad)], 1)
            for one in tensors
        ]
    return torch.cat(tensors)


def _padding(name: Any, inputs: StoredInputs, roles: Roles) -> float | None:
    if name is _LABEL:
        return roles.label_padding
    if isinstance(inputs, tuple) and roles.mask is not None and name == len(inputs) - 1:
        return 0
    return roles.padding(name if isinstance(name, str) else None, inputs if isinstance(inputs, dict | tuple) else ())


def is_stream(value: Any) -> bool:
    """Whether something can only be read from its beginning."""
    if isinstance(value, DataLoader):
        return is_stream(value.dataset)
    if isinstance(value, IterableDataset):
        return True
    return hasattr(value, "__iter__") and hasattr(value, "features") and not hasattr(value, "__len__")
