"""Data with its task: named by the user, or guessed from labels and what a network returns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from lessen.core.data import Data
from lessen.core.errors import LessenError
from lessen.core.task import Meaning, Task
from lessen.core.tree import judged as judged_part
from lessen.measure.evaluate import Runnable
from lessen.tasks.guess import Guess, guess, named, sample_labels
from lessen.tasks.judged import judged
from lessen.zoo.check import judged_output, run_on


def with_task(data: Data, network: Runnable, *, task: str | Task | None = None, metric: Any = None) -> Data:
    """The data with its task.

    Args:
        data: A task that it has already stays, unless another is named.
        network: Runs on a few training examples, in eval mode.
        task: A task, or its name; None: that of the data, else a guess.
        metric: `(function, "max")` or `(function, "min")`: what networks are judged by first; None: the task's metrics.

    Raises:
        DataError: no task fits outputs and labels.
        NetworkError: the network returns no tensor.
        SettingError: there is no such task, or the metric has no direction.
    """
    return replace(data, task=judged(guessed(data, network, task=task).task, metric))


def guessed(data: Data, network: Runnable, *, task: str | Task | None = None, what: str = "The network") -> Guess:
    """The task of data and a network, and the reason for it. Arguments and errors as of `with_task`.

    Args:
        data: As of `with_task`.
        network: As of `with_task`.
        task: As of `with_task`.
        what: What to call the network in an error.
    """
    if task is None and data.task is not None:
        return Guess(task=data.task, reason="given with the data")
    labels, first = sample_labels(data.train)
    if isinstance(network, nn.Module):
        output = judged_output(run_on(network, data.example(2), what=what), data.output, what)
    else:
        output = judged_part(network(data.example(2)), data.output)
    shape = tuple(output.shape)
    if task is not None:
        found = named(task, shape, labels, classes=data.classes)
        return Guess(task=found, reason="named by the user")
    return guess(shape, labels, inputs=first.inputs, classes=data.classes)


def returns_probabilities(data: Data, network: nn.Module) -> str | None:
    """What to say of a network that seems to return probabilities, where losses and soft targets expect logits.

    Args:
        data: Its training examples are looked at, and its task says what outputs are.
        network: Runs on a few of these examples, in eval mode.

    Returns:
        A sentence without its subject, or None where the outputs are no probabilities.
    """
    task = data.task
    if task is None or task.meaning is Meaning.NUMBERS:
        return None
    for count in (2, _LOOKED_AT):
        returned = run_on(network, data.example(count), what="The network")
        output = judged_output(returned, data.output, "The network").float()
        if not bool(((output >= 0) & (output <= 1)).all()):
            return None
        if task.meaning is Meaning.CLASSES:
            alone = output.shape[task.class_axis] < 2
            if alone or not bool(((output.sum(task.class_axis) - 1).abs() < _SUM).all()):
                return None
    what, function, last = (
        ("each row of its outputs sums to 1", "CrossEntropyLoss", "softmax")
        if task.meaning is Meaning.CLASSES
        else ("all its outputs lie between 0 and 1", "BCEWithLogitsLoss", "sigmoid")
    )
    return (
        f"seems to return probabilities: {what}. Losses and soft targets expect logits here, as "
        f"torch.nn.{function} does, and teach little from probabilities. Give the network without its last {last}."
    )


_LOOKED_AT = 32
"""Examples whose outputs are looked at before it is said that they are probabilities."""
_SUM = 1e-3
"""How far from 1 the sum of probabilities may be."""


def task_or_none(data: Data, network: nn.Module) -> Data:
    """The data with its task, if the network runs on it by itself and a task fits; else as it is.

    Labels of tokens are left to what learns from them: they do not say whether they are about this token or the next.
    """
    try:
        found = guessed(data, network).task
        return data if getattr(found, "tokens", False) else replace(data, task=found)
    except (LessenError, RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError):
        return data
