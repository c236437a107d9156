"""Trees of tensors: what a network returns, read as named tensors.

A network may return a tensor, or dicts, tuples, lists, dataclasses and other objects that hold tensors, as deep as they
come. `parts` names each tensor by its path ("logits", "boxes", "0.1"); what is no tensor has no name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from lessen.core.errors import NetworkError, did_you_mean

JUDGED = "logits"
"""The name of the part that is judged where several come and nobody says which."""


def parts(value: Any) -> dict[str, Tensor]:
    """The tensors in what a network returned, in order, by name; a tensor by itself has the name "".

    Args:
        value: Anything. None, numbers and text in it are skipped.

    >>> import torch
    >>> list(parts({"boxes": torch.zeros(2, 4), "levels": [torch.zeros(2), (None, torch.zeros(3))]}))
    ['boxes', 'levels.0', 'levels.1.1']
    """
    return dict(_walk(value, ""))


def is_several(value: Any) -> bool:
    """Whether what a network returned is something else than one tensor."""
    return not isinstance(value, Tensor)


def part_of(value: Any, name: str) -> Tensor:
    """One tensor of what a network returned.

    Raises:
        NetworkError: there is no such part; the text lists those that there are.
    """
    found = parts(value)
    if name not in found:
        raise NetworkError(
            f"There is no output {name!r}: {did_you_mean(name, [each for each in found if each])} {listed(found)}"
        )
    return found[name]


def judged(value: Any, output: str | None = None) -> Tensor:
    """The tensor that is taught by default, compared with the labels and measured.

    Args:
        value: What a network returned. A tensor by itself is the answer, whatever `output` says.
        output: The name of the part. None: `logits`, or the only tensor.

    Raises:
        NetworkError: there is no such part, no tensor at all, or there are several and none is meant.

    >>> import torch
    >>> judged((torch.zeros(2, 3), None)).shape
    torch.Size([2, 3])
    >>> judged((torch.zeros(2, 3), torch.zeros(2, 4)), "1").shape
    torch.Size([2, 4])
    """
    if isinstance(value, Tensor):
        return value
    if output is not None:
        return part_of(value, output)
    found = parts(value)
    chosen = name_of_judged(found)
    if chosen is None:
        raise NetworkError(
            f"The network returned a {type(value).__name__} with several outputs, and none of them is called "
            f"{JUDGED!r}. {listed(found)} Say which one is compared with labels and teacher, as "
            f"output={_suggested(found)!r}."
            if found
            else f"The network returned a {type(value).__name__} without a tensor in it; expected a tensor, or a dict, "
            "tuple or dataclass of tensors."
        )
    return found[chosen]


def name_of_judged(found: Mapping[str, Any]) -> str | None:
    """The name of the part that is judged where nobody says which: `logits`, or the only one; None if unclear."""
    if JUDGED in found:
        return JUDGED
    return next(iter(found)) if len(found) == 1 else None


def listed(found: Mapping[str, Tensor]) -> str:
    """The parts and their shapes, as a sentence."""
    said = ", ".join(f"{name or 'a tensor'} {tuple(value.shape)}" for name, value in found.items())
    return f"It returns {said}." if said else "It returns no tensor."


def _suggested(found: Mapping[str, Tensor]) -> str:
    """The part that is most likely meant: the first of floating-point numbers."""
    return next((name for name, value in found.items() if value.is_floating_point()), next(iter(found)))


def _walk(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
        return
    for key, child in _children(value):
        yield from _walk(child, f"{name}.{key}" if name else str(key))


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts that a value directly consists of, by name; none of a leaf."""
    if value is None or isinstance(value, str | bytes | int | float | complex | type | nn.Module):
        return
    if isinstance(value, Mapping):  # also transformers' ModelOutput, which leaves out what is None
        yield from ((str(key), child) for key, child in value.items())
    elif isinstance(value, tuple) and hasattr(value, "_fields"):
        yield from zip(value._fields, value, strict=True)
    elif isinstance(value, tuple | list):
        yield from ((str(number), child) for number, child in enumerate(value))
    elif dataclasses.is_dataclass(value):
        yield from ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
    else:  # an object that holds tensors; other objects in it are not looked into, for they may hold each other
        held = getattr(value, "__dict__", {})
        yield from ((key, child) for key, child in held.items() if _plain(key, child))


def _plain(key: str, child: Any) -> bool:
    return not key.startswith("_") and isinstance(child, Tensor | Mapping | tuple | list)
