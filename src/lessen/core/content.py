"""What a set of examples holds, as a digest: a resumed run and a teacher's cache belong to the data they began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from lessen.core.batch import Inputs
    from lessen.core.examples import Examples

SAMPLED = 1024
"""Examples of someone's own dataset that are looked at; looking at all of them would be a pass over the data."""


def examples_digest(examples: Examples, *, labels: bool = True) -> str:
    """A digest of a set of examples, of inputs and labels or of inputs alone.

    Arrays are read whole, in blocks: 1 to 3 s for 3 GB, and no memory. It is kept with arrays and image folders, so a
    second call costs nothing. Folders of images say what they read. Of any other dataset as many examples as `SAMPLED`
    are looked at, evenly spaced.

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
            if isinstance(block, Tensor):
                block = block.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
            if block.size:
                self._hash.update(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)

    def tensor(self, value: Tensor) -> None:
        """Add a tensor."""
        self.array(value.shape, value.dtype, [value])

    def inputs(self, inputs: Inputs) -> None:
        """Add what a network is called with."""
        if isinstance(inputs, Tensor):
            self.tensor(inputs)
        elif isinstance(inputs, dict):
            for name, value in inputs.items():
                self.text(name)
                self.tensor(value)
        else:
            for value in inputs:
                self.tensor(value)

    def hexdigest(self) -> str:
        """What was added, as text."""
        return self._hash.hexdigest()


def sampled(examples: Examples) -> tuple[str, str]:
    """The digests of the inputs and of the labels of some examples, evenly spaced, and of how many there are."""
    count = len(examples)
    inputs, labels = Content(), Content()
    inputs.text(str(count))
    for part in torch.linspace(0, max(0, count - 1), min(SAMPLED, count)).round().long().split(64):
        batch = examples.fetch(part)
        inputs.inputs(batch.inputs)
        if batch.labels is not None:
            labels.tensor(batch.labels)
    return inputs.hexdigest(), labels.hexdigest()
