"""Three splits from whatever there is: what is missing is cut off the training split, under a seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lessen.core.data import Examples, SubsetExamples
from lessen.core.errors import DataError, did_you_mean
from lessen.core.seeds import generator

_NAMES = {"train": "train", "training": "train", "test": "test", "validation": "validation", "val": "validation"}
_NAMES |= {"valid": "validation", "dev": "validation"}


def split_name(name: str) -> str | None:
    """The split that a folder or key of this name is meant to be, or None.

    >>> split_name("val"), split_name("cats")
    ('validation', None)
    """
    return _NAMES.get(name.lower())


def complete(found: Mapping[str, Examples], *, validation: float, test: float, seed: int) -> dict[str, Any]:
    """The train, validation and test split, where those that were not found are cut off the training split.

    Args:
        found: Examples by the name of their split; "train" must be there.
        validation: Share of the training split to cut off for validation, if it was not found.
        test: Share to cut off for the test, if it was not found.
        seed: Which examples are cut off.

    Raises:
        DataError: a split is unknown, twice there or empty, or there is nothing to learn from.
    """
    splits: dict[str, Examples] = {}
    for name, examples in found.items():
        known = split_name(name)
        if known is None:
            raise DataError(f"There is no split {name!r}: {did_you_mean(name, ['train', 'validation', 'test'])}")
        if known in splits:
            raise DataError(f"The {known} split was given twice, once as {name!r}. Give it once.")
        if len(examples) == 0:
            raise DataError(f"The {known} split has no examples. Every split needs at least one.")
        splits[known] = examples
    if "train" not in splits:
        raise DataError(
            f"There is no train split, only {', '.join(sorted(splits)) or 'nothing'}. Give data to train on."
        )
    for name, share in (("test", test), ("validation", validation)):
        if name not in splits:
            train = splits["train"]
            order = shuffled(len(train), getattr(train, "labels", None), seed=seed, purpose=name)
            size = cut(len(train), share, name)
            splits[name], splits["train"] = subset(train, order[:size]), subset(train, order[size:])
    return dict(splits)


def subset(examples: Examples, chosen: Tensor) -> Examples:
    """Some of the examples, in the order of `chosen`; nothing is copied."""
    if isinstance(examples, SubsetExamples):
        return SubsetExamples(examples.examples, examples.chosen[chosen])
    return SubsetExamples(examples, chosen)


def shuffled(count: int, labels_N: Tensor | None, *, seed: int, purpose: str) -> Tensor:
    """The numbers 0 .. count-1 in a random order in which every class is spread evenly, shape (count,), int64.

    Any piece cut from the order then holds the classes in the shares of the whole. Labels that are not integers
    of one dimension (regression, masks) are not looked at.

    >>> order = shuffled(6, torch.tensor([0, 0, 0, 0, 1, 1]), seed=0, purpose="validation")
    >>> int((order[:3] < 4).sum())
    2
    """
    order_N = torch.randperm(count, generator=generator(seed, "split", purpose))
    if labels_N is None or labels_N.ndim != 1 or labels_N.is_floating_point():
        return order_N
    drawn_N = labels_N[order_N]
    place_N = torch.empty(count, dtype=torch.float64)
    for label in drawn_N.unique():
        members = (drawn_N == label).nonzero().flatten()
        # The i-th of n members is at (i + 1/2) / n of the range, for every n.
        place_N[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order_N[place_N.argsort(stable=True)]


def cut(count: int, share: float | int, what: str) -> int:
    """How many examples a share (a fraction below 1, or a number of examples) of `count` is.

    Raises:
        DataError: the piece, or what would be left of it, is empty.
    """
    size = share if isinstance(share, int) else round(count * share)
    if not 0 < size < count:
        raise DataError(
            f"Cannot cut a {what} split of {share} from {count} examples: it would hold {size} and leave "
            f"{count - size}. Give more examples, another share, or the split itself."
        )
    return size
