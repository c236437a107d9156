"""Errors for an edge that cannot be computed on the first batch: which edge, which shapes, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lessen.core.errors import GraphError, LessenError, ShapeError


@contextmanager
def explained(name: str, target: Any, source: Any) -> Iterator[None]:
    """Any failure inside becomes an error that names the edge and both shapes; `source` is None where there is none."""
    try:
        yield
    except LessenError as error:
        raise type(error)(f"The edge {name}: {error}") from error
    except Exception as error:
        if source is None:
            raise ShapeError(
                f"The edge {name} cannot be computed on its target's value of shape {shown(target)}: "
                f"{type(error).__name__}: {error}. Choose another tap."
            ) from error
        raise ShapeError(
            f"The edge {name} cannot be computed between its target's value of shape {shown(target)} and its source's "
            f"of shape {shown(source)}: {type(error).__name__}: {error}. Choose other taps, or give the edge a bridge."
        ) from error


def check_loss(name: str, loss: Any, count: int, target: Any, source: Any) -> None:
    """Whether an objective gave one finite loss for each of `count` examples.

    Raises:
        GraphError: it did not.
    """
    if not isinstance(loss, Tensor) or loss.shape != (count,):
        came = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise GraphError(
            f"The objective of the edge {name} gave {came} for {count} examples; it must give one loss per example, "
            f"shape ({count},). Do not average in an objective."
        )
    if not bool(torch.isfinite(loss).all()):
        other = "" if source is None else f" and a source's of {shown(source)}"
        raise GraphError(
            f"The objective of the edge {name} gave {loss.tolist()} on the first examples, for a target's value of "
            f"shape {shown(target)}{other}. A loss must be finite; look for NaN in data "
            "or weights."
        )


def shape_of(value: Any) -> Any:
    """The shape of what a tap gave; a tuple of shapes for several taps.

    Raises:
        ShapeError: it is not a tensor, nor tensors.
    """
    if isinstance(value, Tensor):
        return value.shape
    if isinstance(value, tuple):
        return tuple(shape_of(part) for part in value)
    raise ShapeError(
        f"a bridge needs a tensor, but the tap gave {type(value).__name__}. Tap a module that gives a tensor."
    )


def shown(value: Any) -> str:
    """Shapes, for people."""
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, Sequence):
        return f"{type(value).__name__} of {', '.join(map(shown, value))}"
    return type(value).__name__
