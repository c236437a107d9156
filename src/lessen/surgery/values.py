"""Values of taps: a tensor, or tuples of them, as deep as they come."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, in order.

    >>> import torch
    >>> [len(leaf) for leaf in leaves((torch.zeros(2), (torch.zeros(3),)))]
    [2, 3]
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from leaves(part)


def map_values(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The value with a function applied to every tensor in it; what is no tensor stays."""
    if isinstance(value, Tensor):
        return function(value)
    if type(value) in {tuple, list}:
        return type(value)(map_values(function, part) for part in value)
    return value


def shapes_of(value: Any) -> Any:
    """The shape of a tensor; a tuple of shapes for a tuple of tensors.

    >>> import torch
    >>> shapes_of((torch.zeros(2, 3), torch.zeros(4)))
    ((2, 3), (4,))
    """
    return tuple(value.shape) if isinstance(value, Tensor) else tuple(shapes_of(part) for part in value)
