"""Sets of examples that are fetched by index: tensors, and some of any other set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lessen.core.ahead import Loading, ahead, loading_of
from lessen.core.batch import Batch, Inputs, map_inputs, values_of
from lessen.core.content import Content, content_of


@runtime_checkable
class Examples(Protocol):
    """A finite set of examples that can be fetched by index, many at once, in any order.

    It may also have `loading` (a `Loading`: how to fetch ahead), `labels` (a tensor of all of them, known without
    fetching) and `content` (digests of its inputs and of its labels, see `core.content`).
    """

    def __len__(self) -> int: ...

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""


@dataclass(frozen=True)
class ArrayExamples:
    """Examples held in memory as tensors, which a network gets as they are; fetching is one indexing operation.

    Args:
        inputs: Tensor(s) with examples along axis 0.
        labels: Shape (N, ...), or None.
    """

    inputs: Inputs
    labels: Tensor | None = None

    def __len__(self) -> int:
        first = self.inputs if isinstance(self.inputs, Tensor) else next(iter(values_of(self.inputs)))
        return int(first.shape[0])

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        labels = None if self.labels is None else rows(self.labels, index_N)
        return Batch(map_inputs(self.inputs, lambda value: rows(value, index_N)), index_N, labels)

    @property
    def content(self) -> tuple[str, str]:
        """The digests of the inputs and of the labels; made again each time, because tensors can be changed."""
        inputs, labels = Content(), Content()
        inputs.inputs(self.inputs)
        if self.labels is not None:
            labels.tensor(self.labels)
        return inputs.hexdigest(), labels.hexdigest()


def rows(value: Tensor, index_N: Tensor) -> Tensor:
    """Some rows of a tensor; `index_select` copies them whole, in half the time of indexing."""
    return value.index_select(0, index_N.to(value.device))


@dataclass(frozen=True)
class SubsetExamples:
    """Some of the examples of another set, renumbered from 0 in the order of `chosen`; nothing is copied."""

    examples: Examples
    chosen: Tensor

    def __len__(self) -> int:
        return int(self.chosen.shape[0])

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        batch = self.examples.fetch(self.chosen.index_select(0, index_N))
        return Batch(batch.inputs, index_N, batch.labels)

    @property
    def loading(self) -> Loading:
        """As the whole set."""
        return loading_of(self.examples)

    @cached_property
    def labels(self) -> Tensor | None:
        """The labels of these examples, where those of the whole set are known without fetching them."""
        labels: Tensor | None = getattr(self.examples, "labels", None)
        return None if labels is None else labels[self.chosen]

    @property
    def content(self) -> tuple[str, str]:
        """The digests of the whole set, with those of the choice, unless it is all of them in their order."""
        if torch.equal(self.chosen, torch.arange(len(self.examples))):
            return content_of(self.examples)
        found = []
        for part in content_of(self.examples):
            mine = Content()
            mine.text(part)
            mine.tensor(self.chosen)
            found.append(mine.hexdigest())
        return found[0], found[1]


def batches(examples: Examples, *, size: int, most: int | None = None) -> Iterator[Batch]:
    """The examples in order, `size` at a time; at most `most` of them, or all.

    A dataset that draws random numbers gives the same examples in each pass, whatever the size of a batch.
    """
    total = len(examples) if most is None else min(most, len(examples))
    yield from ahead(examples, ((0, torch.arange(first, min(first + size, total))) for first in range(0, total, size)))
