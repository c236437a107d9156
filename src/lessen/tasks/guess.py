"""Which task labels and outputs belong to, and why; and tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lessen.core.data import IGNORED, Batch
from lessen.core.errors import DataError, SettingError, did_you_mean
from lessen.core.task import Meaning, Task
from lessen.tasks.dense import Dense
from lessen.tasks.language import Language, labels_are_inputs
from lessen.tasks.multi_label import Binary, MultiLabel
from lessen.tasks.quantities import Quantities
from lessen.tasks.retrieval import Retrieval
from lessen.tasks.single_label import SUM, SingleLabel
from lessen.tasks.unlabelled import Unlabelled

Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A task, and the reason why it is this one.

    Args:
        task: The task.
        reason: In one clause, for people: "labels are integers of shape (N,) and there are 10 outputs".
    """

    task: Task
    reason: str

    def __str__(self) -> str:
        return f"task: {self.task.name} ({self.reason})"


def guess(shape: Shape, labels: Tensor | None, *, inputs: Any = None, classes: Sequence[str] | None = None) -> Guess:
    """The task that labels and outputs look like.

    Args:
        shape: Of the outputs, examples first.
        labels: Of as many training examples as is cheap, shape (N, ...), or None.
        inputs: Of the first of these examples, if they tell more.
        classes: Names of the classes, where they are known.

    Raises:
        DataError: no task has such outputs and labels; the text names both shapes.
    """
    if labels is None:
        return Guess(task=_unlabelled(shape), reason="there are no labels")
    what = f"labels are {_kind(labels)} of shape {_shown(labels.shape)}, outputs have shape {_shown(shape)}"
    found = _of_numbers(shape, labels) if labels.is_floating_point() else _of_integers(shape, labels, inputs, classes)
    if found is None:
        known = "" if classes is None else f" The data has {len(classes)} classes."
        raise DataError(
            f"No task fits: {what}.{known} Name it with task= ({', '.join(NAMES)}), give labels that fit the outputs, "
            "or task='none' to learn from the teacher alone."
        )
    task, why = found
    return Guess(task=task, reason=f"{what}{why}")


def named(name: str | Task, shape: Shape, labels: Tensor | None, *, classes: Sequence[str] | None = None) -> Task:
    """The task of this name, for these outputs and labels; a task itself is returned as it is.

    Args:
        name: One of `NAMES`, or a task.
        shape: As of `guess`.
        labels: As of `guess`.
        classes: As of `guess`.

    Raises:
        SettingError: there is no such task.
        DataError: it needs labels, and there are none.
    """
    if not isinstance(name, str):
        if isinstance(name, type) or not isinstance(name, Task):
            raise SettingError(
                f"task is {name!r}; expected one of {', '.join(NAMES)}, or an object with name, meaning, metrics, "
                "check, loss and rows, as lessen.tasks.SingleLabel()."
            )
        return name
    key = name.lower().replace("-", "_").replace(" ", "_")
    if key not in _MAKERS:
        raise SettingError(f"There is no task {name!r}: {did_you_mean(name, NAMES)}")
    if labels is None and key not in _NEEDS_NONE:
        raise DataError(f"The task is {name!r}, but the data has no labels. Give labels, or task='none'.")
    return _MAKERS[key](shape, labels, classes)


def _of_numbers(shape: Shape, labels: Tensor) -> tuple[Task, str] | None:
    if not _same_numbers(shape, labels.shape):
        return None
    width = labels.numel() // max(1, len(labels))
    yes_or_no = bool(((labels == 0) | (labels == 1)).all())
    if yes_or_no and (width == 1 or labels.ndim > 2):
        return Binary(), ", all labels are 0 or 1"
    if labels.ndim == 2 and width > 1 and bool((labels >= 0).all()):
        if bool(((labels.sum(1) - 1).abs() < SUM).all()):
            return SingleLabel(classes=width), ", each row of labels sums to 1"
        if yes_or_no:
            return MultiLabel(), ", all labels are 0 or 1, several of a row"
    return Quantities(), ""


def _of_integers(shape: Shape, labels: Tensor, inputs: Any, classes: Sequence[str] | None) -> tuple[Task, str] | None:
    known = labels[labels != IGNORED]
    if _same_numbers(shape, labels.shape):
        if not bool(((known == 0) | (known == 1)).all()):
            return Quantities(), ", one output for each label"
        several = labels.ndim == 2 and labels.shape[1] > 1
        return (MultiLabel() if several else Binary()), ", all labels are 0 or 1"
    if labels.ndim == 1 and len(shape) == 2:
        return SingleLabel(classes=None if classes is None else len(classes)), ""
    if labels.ndim >= 2 and len(shape) == labels.ndim + 1:
        places, last, first = tuple(labels.shape[1:]), tuple(shape[1:-1]), tuple(shape[2:])
        if last == places and labels.ndim == 2 and labels_are_inputs(inputs, labels):
            return Language(), ", labels are the tokens of the inputs"
        if last == places and labels.ndim == 2 and places[0] > 1 and labels_are_inputs(inputs, labels, ahead=1):
            return Language(shift=False), ", the label at each position is the next token of the inputs"
        if last == places and (labels.ndim == 2 or first != places):
            return Dense(class_axis=-1, classes=_names(classes, shape[-1]), tokens=labels.ndim == 2), ""
        if first == places:
            return Dense(classes=_names(classes, shape[1]), tokens=labels.ndim == 2), ""
    return None


def _names(classes: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    """Names of classes, if there is one for each output: labels of ignored positions may have been counted."""
    return tuple(classes) if classes is not None and len(classes) == count else None


def _same_numbers(shape: Shape, labels: Shape) -> bool:
    """Whether there is one output for each label: axes of length 1 do not count."""
    ours, theirs = ([size for size in each[1:] if size != 1] for each in (shape, labels))
    return ours == theirs and (len(shape) <= len(labels) + 1)


def _unlabelled(shape: Shape) -> Unlabelled:
    """Outputs with positions and a few channels are read as logits at each position."""
    if len(shape) == 4 and shape[1] >= 2:
        return Unlabelled(meaning=Meaning.CLASSES, class_axis=1)
    return Unlabelled()


def _kind(labels: Tensor) -> str:
    return "floating-point numbers" if labels.is_floating_point() else "integers"


def _shown(shape: Sequence[int]) -> str:
    return "(" + ", ".join(["N", *map(str, shape[1:])]) + ("," if len(shape) == 1 else "") + ")"


def _dense(shape: Shape, labels: Tensor | None, classes: Sequence[str] | None) -> Task:
    assert labels is not None
    if _same_numbers(shape, labels.shape):
        return Binary()
    places = tuple(labels.shape[1:])
    axis = -1 if tuple(shape[1:-1]) == places and (labels.ndim == 2 or tuple(shape[2:]) != places) else 1
    count = shape[axis] if len(shape) > 1 else 1
    return Dense(class_axis=axis, classes=_names(classes, count), tokens=labels.ndim == 2)


def _single(shape: Shape, labels: Tensor | None, classes: Sequence[str] | None) -> Task:
    del shape
    integers = labels is not None and not labels.is_floating_point()
    return SingleLabel(classes=len(classes) if classes is not None and integers else None)


def _fixed(task: Task) -> Callable[[Shape, Tensor | None, Sequence[str] | None], Task]:
    return lambda shape, labels, classes: task


_MAKERS: dict[str, Callable[[Shape, Tensor | None, Sequence[str] | None], Task]] = {
    "single_label": _single,
    "multi_label": _fixed(MultiLabel()),
    "binary": _fixed(Binary()),
    "dense": _dense,
    "regression": _fixed(Quantities()),
    "language": _fixed(Language()),
    "masked_language": _fixed(Language(shift=False)),
    "retrieval": _fixed(Retrieval()),
    "none": lambda shape, labels, classes: _unlabelled(shape),
}
_ALIASES = {
    "classification": "single_label",
    "singlelabel": "single_label",
    "multiclass": "single_label",
    "multilabel": "multi_label",
    "segmentation": "dense",
    "tokens": "dense",
    "token_classification": "dense",
    "causal_language": "language",
    "unlabelled": "none",
}
_MAKERS |= {other: _MAKERS[name] for other, name in _ALIASES.items()}
_NEEDS_NONE = {"none", "unlabelled"}
NAMES = tuple(name for name in _MAKERS if name not in _ALIASES)
"""The tasks that have a name."""


def sample_labels(examples: Any, *, most: int = 256) -> tuple[Tensor | None, Batch]:
    """Labels of some training examples spread over the split, to guess from, and the first few of these examples.

    Args:
        examples: The training split.
        most: Labels that are looked at, where they are known without fetching; else 32.
    """
    count = len(examples)
    index = torch.linspace(0, count - 1, min(most, count)).round().long().unique()
    labels = getattr(examples, "labels", None)
    if isinstance(labels, Tensor):
        return labels[index], examples.fetch(index[:4])
    few = examples.fetch(index[:: max(1, len(index) // 32)])
    return few.labels, few
