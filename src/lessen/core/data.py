"""Batches, examples, views and splits: what every part of lessen means by data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lessen.core.errors import DataError

Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
"""What a network is called with: a tensor, a tuple (positional) or a dict (keyword), examples along axis 0."""

IGNORED = -100
"""The label of a token that does not count (padding, the prompt), as in transformers."""


@dataclass(frozen=True)
class Batch:
    """N examples on their way through a graph.

    Args:
        inputs: What the network takes; examples along axis 0.
        index: The stable number of each example in its split, shape (N,), int64.
        labels: What is known of them, shape (N, ...), or None.
    """

    inputs: Inputs
    index: Tensor
    labels: Tensor | None = None

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on a device."""
        labels = None if self.labels is None else self.labels.to(device)
        return Batch(map_inputs(self.inputs, lambda value: value.to(device)), self.index.to(device), labels)


def map_inputs(inputs: Inputs, function: Any) -> Inputs:
    """Apply a function to every tensor of the inputs."""
    if isinstance(inputs, Tensor):
        result: Tensor = function(inputs)
        return result
    if isinstance(inputs, dict):
        return {name: function(value) for name, value in inputs.items()}
    return tuple(function(value) for value in inputs)


def call(network: Any, inputs: Inputs) -> Any:
    """Call a network with inputs: a tensor as it is, a tuple as positional, a dict as keyword arguments."""
    if isinstance(inputs, dict):
        return network(**inputs)
    if isinstance(inputs, tuple):
        return network(*inputs)
    return network(inputs)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a learned objective may know of the task before it is built.

    Args:
        examples: How many training examples there are; `Batch.index` counts from 0 to this.
        classes: How many classes; None for a regression or where it is not known.
    """

    examples: int
    classes: int | None = None


@runtime_checkable
class Examples(Protocol):
    """A finite set of examples that can be fetched by number, many at once, in any order."""

    def __len__(self) -> int: ...

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""


@dataclass(frozen=True)
class ArrayExamples:
    """Examples held in memory as tensors; fetching is one indexing operation.

    Args:
        inputs: Tensor(s) with examples along axis 0.
        labels: Shape (N, ...), or None.
    """

    inputs: Inputs
    labels: Tensor | None = None

    def __len__(self) -> int:
        first = self.inputs if isinstance(self.inputs, Tensor) else next(iter(_values(self.inputs)))
        return int(first.shape[0])

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        labels = None if self.labels is None else self.labels[index_N]
        return Batch(map_inputs(self.inputs, lambda value: value[index_N]), index_N, labels)


@dataclass(frozen=True)
class DatasetExamples:
    """Examples of any map-style dataset whose items are `(input, label)`, or `input` alone."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        items = [self.dataset[int(i)] for i in index_N]
        if isinstance(items[0], tuple | list):
            inputs = torch.stack([torch.as_tensor(item[0]) for item in items])
            return Batch(inputs, index_N, torch.as_tensor([item[1] for item in items]))
        return Batch(torch.stack([torch.as_tensor(item) for item in items]), index_N)


@dataclass(frozen=True)
class SubsetExamples:
    """Some of the examples of another set, renumbered from 0 in the order of `chosen`."""

    examples: Examples
    chosen: Tensor

    def __len__(self) -> int:
        return int(self.chosen.shape[0])

    def fetch(self, index_N: Tensor) -> Batch:
        """The examples with these numbers, in this order."""
        batch = self.examples.fetch(self.chosen[index_N])
        return Batch(batch.inputs, index_N, batch.labels)


@runtime_checkable
class View(Protocol):
    """What a node sees of a batch. Random views draw `draws` uniform numbers for each example (see `seeds.uniforms`).

    A view is a settings object; `encode` of it is its identity, so a cache knows what was seen.
    """

    @property
    def draws(self) -> int: ...

    def __call__(self, inputs: Tensor, uniforms_NK: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Data:
    """A task: what to learn from, what to choose settings with, what to report on.

    Args:
        train: To learn from. Calibration examples are drawn from here.
        validation: To choose by (best epoch, settings). Never the test split.
        test: To report on, once.
        classes: Names of the classes, or None where labels are numbers to predict.
        augment: The view of a training batch, or None.
        name: What the data is called in records.
    """

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...] | None = None
    augment: View | None = None
    name: str = "data"
    about: dict[str, Any] = field(default_factory=dict)

    def example(self, count: int = 2) -> Inputs:
        """The inputs of the first examples of the training split."""
        return self.train.fetch(torch.arange(min(count, len(self.train)))).inputs

    @property
    def task(self) -> Task:
        """What learned objectives are told."""
        return Task(examples=len(self.train), classes=None if self.classes is None else len(self.classes))

    def calibration(self, count: int, *, batch: int = 64, seed: int = 0) -> list[Batch]:
        """Batches of training examples chosen at random under a seed, for operations that look at data."""
        from lessen.core.seeds import generator

        order = torch.randperm(len(self.train), generator=generator(seed, "calibration"))[:count]
        return [self.train.fetch(part) for part in order.split(batch)]

    def check(self, *, most: int = 4096) -> None:
        """Look for what would only fail later: an empty split, numbers that are not finite, labels out of range.

        Raises:
            DataError: naming the split and what is wrong with it.
        """
        for name in ("train", "validation", "test"):
            examples: Examples = getattr(self, name)
            if len(examples) == 0:
                raise DataError(f"The {name} split of {self.name} has no examples. Every split needs at least one.")
            for batch in batches(examples, size=512, most=most):
                _check_batch(batch, f"the {name} split of {self.name}", self.classes)


def batches(examples: Examples, *, size: int, most: int | None = None) -> Iterator[Batch]:
    """The examples in order, `size` at a time; at most `most` of them, or all."""
    total = len(examples) if most is None else min(most, len(examples))
    for part in torch.arange(total).split(size):
        yield examples.fetch(part)


def check_calibration(calibration: Sequence[Batch], inputs: Inputs) -> None:
    """Whether calibration batches can be what a network is called with, as far as that shows before it is called.

    Examples may differ in length: what must agree with the example inputs is how many tensors there are, of which kind
    and with how many axes, and the channels of images, the width of tokens, the number of features.

    Raises:
        DataError: a batch is of another shape or kind, or holds NaN or infinity; the text names it.
    """
    wanted = dict(_named_values(inputs))
    for number, batch in enumerate(calibration):
        what = f"calibration batch {number}"
        found = dict(_named_values(batch.inputs))
        if found.keys() != wanted.keys():
            raise DataError(f"The inputs of {what} are {_names(found)}, but the example inputs are {_names(wanted)}.")
        for name, value in found.items():
            if not _alike(value, wanted[name]):
                raise DataError(
                    f"{name} of {what} is {value.dtype} of shape {tuple(value.shape)}, but the example inputs have "
                    f"{wanted[name].dtype} of shape {tuple(wanted[name].shape)} (examples along axis 0). Prepare both "
                    "in the same way."
                )
        _check_finite(batch, what)


def _names(named: dict[str, Tensor]) -> str:
    return ", ".join(named) or "none"


def _alike(value: Tensor, wanted: Tensor) -> bool:
    if value.ndim != wanted.ndim or value.is_floating_point() != wanted.is_floating_point():
        return False
    if not value.is_floating_point() or value.ndim < 2:
        return True
    if value.ndim == 3:  # channels or tokens first: one of the two is a length
        return value.shape[1] == wanted.shape[1] or value.shape[2] == wanted.shape[2]
    return value.shape[1] == wanted.shape[1]


def _check_finite(batch: Batch, what: str) -> None:
    for value in _values(batch.inputs):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            finite = torch.isfinite(value).flatten(1).all(1) if value.ndim > 1 else torch.isfinite(value)
            rows = batch.index[~finite][:3].tolist()
            raise DataError(
                f"NaN or infinity in the inputs of {what}, in example {rows[0]} among others. Clean the data."
            )


def _check_batch(batch: Batch, what: str, classes: Sequence[str] | None) -> None:
    _check_finite(batch, what)
    if classes is not None and batch.labels is not None and not batch.labels.is_floating_point():
        low, high = int(batch.labels.min()), int(batch.labels.max())
        if low < 0 or high >= len(classes):
            raise DataError(
                f"Labels of {what} run from {low} to {high}, but there are {len(classes)} classes, numbered from 0."
            )


def _values(inputs: Inputs) -> Iterator[Tensor]:
    yield from (value for _, value in _named_values(inputs))


def _named_values(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    if isinstance(inputs, Tensor):
        yield "input", inputs
    elif isinstance(inputs, dict):
        yield from inputs.items()
    else:
        yield from ((f"input {number}", value) for number, value in enumerate(inputs))
