"""A batch of examples, and what a network is called with."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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

    @property
    def nbytes(self) -> int:
        """How much memory the inputs and labels take."""
        labels = 0 if self.labels is None else self.labels.nbytes
        return labels + sum(value.nbytes for value in values_of(self.inputs))

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


def values_of(inputs: Inputs) -> Iterator[Tensor]:
    """The tensors of the inputs."""
    yield from (value for _, value in named_values(inputs))


def named_values(inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the inputs, each with what to call it in an error."""
    if isinstance(inputs, Tensor):
        yield "input", inputs
    elif isinstance(inputs, dict):
        yield from inputs.items()
    else:
        yield from ((f"input {number}", value) for number, value in enumerate(inputs))
