"""Batches, examples, views and splits: the form of data in all parts of lessen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from lessen.core.ahead import ahead
from lessen.core.batch import IGNORED, Batch, Inputs, call, map_inputs, named_values, values_of
from lessen.core.content import examples_digest
from lessen.core.errors import DataError
from lessen.core.examples import ArrayExamples, Examples, SubsetExamples, batches
from lessen.core.task import Task

__all__ = [
    "IGNORED",
    "ArrayExamples",
    "Batch",
    "Data",
    "Examples",
    "Inputs",
    "SubsetExamples",
    "TaskFacts",
    "View",
    "batches",
    "call",
    "check_calibration",
    "check_labels",
    "examples_digest",
    "map_inputs",
]


@dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What a learned objective knows of the task when it is built.

    Args:
        examples: How many training examples there are; `Batch.index` counts from 0 to this.
        classes: How many classes; None for a regression or where it is not known.
        output: The name of the output that counts, of networks with several; None: see `core.tree.judged`.
        task: What outputs and labels mean; None where nobody has said or guessed it.
    """

    examples: int
    classes: int | None = None
    output: str | None = None
    task: Task | None = None


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
    """A task: the splits to train on, to choose settings with, and to report on.

    Args:
        train: To train on. Calibration examples are drawn from it.
        validation: To choose by (best epoch, settings). Never the test split.
        test: To report on, once.
        classes: Names of the classes, or None for a regression.
        augment: The view of a training batch, or None.
        name: What the data is called in records.
        output: Which output of networks with several is compared with labels and teacher, by its name ("boxes", "0.1");
            None: `logits`, or the only one.
        task: What outputs and labels mean; None: guessed when a network is there (`lessen.tasks.guess`).
    """

    train: Examples
    validation: Examples
    test: Examples
    classes: tuple[str, ...] | None = None
    augment: View | None = None
    name: str = "data"
    about: dict[str, Any] = field(default_factory=dict, metadata={"told": False})
    output: str | None = None
    task: Task | None = None

    def example(self, count: int = 2) -> Inputs:
        """The inputs of the first examples of the training split."""
        return self.train.fetch(torch.arange(min(count, len(self.train)))).inputs

    @property
    def facts(self) -> TaskFacts:
        """What a learned objective knows of the task."""
        classes = None if self.classes is None else len(self.classes)
        return TaskFacts(examples=len(self.train), classes=classes, output=self.output, task=self.task)

    def calibration(self, count: int, *, batch: int = 64, seed: int = 0) -> list[Batch]:
        """Batches of training examples chosen at random under a seed, for operations that look at data."""
        from lessen.core.seeds import generator

        order = torch.randperm(len(self.train), generator=generator(seed, "calibration"))[:count]
        return list(ahead(self.train, ((0, part) for part in order.split(batch))))

    def check(self, *, most: int = 4096) -> None:
        """Check for what would only fail later: an empty split, values that are not finite, labels out of range.

        Raises:
            DataError: naming the split and what is wrong with it.
        """
        for name in ("train", "validation", "test"):
            examples: Examples = getattr(self, name)
            if len(examples) == 0:
                raise DataError(f"The {name} split of {self.name} has no examples. Every split needs at least one.")
            for batch in batches(examples, size=128, most=most):
                what = f"the {name} split of {self.name}"
                _check_finite(batch, what)
                check_labels(batch.labels, what, self.classes)


def check_calibration(calibration: Sequence[Batch], inputs: Inputs) -> None:
    """Whether calibration batches can be what a network is called with, as far as that shows before it is called.

    Examples may differ in length: what must agree with the example inputs is how many tensors there are, of which kind
    and with how many axes, and the channels of images, the width of tokens, the number of features.

    Raises:
        DataError: a batch is of another shape or kind, or holds NaN or infinity; the text names it.
    """
    wanted = dict(named_values(inputs))
    for number, batch in enumerate(calibration):
        what = f"calibration batch {number}"
        found = dict(named_values(batch.inputs))
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
    for value in values_of(batch.inputs):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            finite = torch.isfinite(value).flatten(1).all(1) if value.ndim > 1 else torch.isfinite(value)
            rows = batch.index[~finite][:3].tolist()
            raise DataError(
                f"NaN or infinity in the inputs of {what}, in example {rows[0]} among others. Clean the data."
            )


def check_labels(labels: Tensor | None, what: str, classes: Sequence[str] | None) -> None:
    """Check that integer labels are valid class indices; in maps and sequences positions may be `IGNORED`.

    Raises:
        DataError: one is below 0, or not below the number of classes.
    """
    if classes is None or labels is None or labels.is_floating_point() or labels.numel() == 0:
        return
    if labels.ndim > 1:
        labels = labels[labels != IGNORED]
        if labels.numel() == 0:
            return
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= len(classes):
        raise DataError(
            f"Labels of {what} run from {low} to {high}, but there are {len(classes)} classes, numbered from 0."
        )
