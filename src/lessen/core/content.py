"""What a set of examples holds, as a digest: a resumed run and a teacher's cache belong to the data they began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from lessen.core.batch import Inputs, named_values, values_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lessen.core.examples import Examples

SAMPLED = 1024
"""Examples of someone's own dataset that are looked at; looking at all of them would be a pass over the data."""


def examples_digest(examples: Examples, *, labels: bool = True) -> str:
    """A digest of a set of examples, of inputs and labels or of inputs alone.

    Arrays are read whole, in blocks: 1 to 3 s for 3 GB, and no memory. It is kept with arrays and image folders, so a
    second call costs nothing. Folders of images say what they read. Of any other dataset as many examples as `SAMPLED`
    are looked at, evenly spaced; by their shapes and labels alone where a second look shows other inputs.

    Args:
        examples: A split.
        labels: Whether the labels count.
    """
    inputs, known = content_of(examples)
    return hashlib.sha256(f"{inputs} {known if labels else ''}".encode()).hexdigest()


def content_of(examples: Examples) -> tuple[str, str]:
    """The digests of the inputs and of the labels."""
    own: tuple[str, str] | None = getattr(examples, "content", None)
    return own if own is not None else sampled(examples)


def bytes_of(array: Tensor | NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array, shape (B,); a view of it where that can be."""
    if isinstance(array, Tensor):
        whole = array.detach().cpu()
        if whole.layout is not torch.strided:
            whole = whole.to_dense()
        flat = whole.resolve_conj().resolve_neg().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


class Content:
    """A digest that grows with what is added to it; no copy of what is added is made beyond a block."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def text(self, text: str) -> None:
        """Add a text."""
        self._hash.update(f"{len(text)}:{text}".encode())

    def array(self, shape: Iterable[int], dtype: object, blocks: Iterable[Tensor | NDArray[Any]]) -> None:
        """Add an array that comes in blocks along its first axis."""
        self.text(f"{tuple(shape)}|{dtype}")
        for block in blocks:
            self._hash.update(bytes_of(block).data)

    def tensor(self, value: Tensor) -> None:
        """Add a tensor."""
        self.array(value.shape, value.dtype, [value])

    def inputs(self, inputs: Inputs) -> None:
        """Add what a network is called with."""
        for name, value in named_values(inputs):
            self.text(name)
            self.tensor(value)

    def hexdigest(self) -> str:
        """What was added, as text."""
        return self._hash.hexdigest()


def sampled(examples: Examples) -> tuple[str, str]:
    """The digests of the inputs and of the labels of some examples, evenly spaced, and of how many there are."""
    count = len(examples)
    inputs, labels = Content(), Content()
    inputs.text(str(count))
    few = torch.arange(min(4, count))
    looks = [Content(), Content()]
    for look in looks if count else ():
        look.inputs(examples.fetch(few).inputs)
    steady = looks[0].hexdigest() == looks[1].hexdigest()
    for part in torch.linspace(0, max(0, count - 1), min(SAMPLED, count)).round().long().split(64):
        batch = examples.fetch(part)
        if steady:
            inputs.inputs(batch.inputs)
        else:
            inputs.text(str([(value.shape, value.dtype) for value in values_of(batch.inputs)]))
        if batch.labels is not None:
            labels.tensor(batch.labels)
    return inputs.hexdigest(), labels.hexdigest()
