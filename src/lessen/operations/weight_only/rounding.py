"""The contract of a way to round weights: a weight as rows goes in, with what its inputs are; codes come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from lessen.core import Card
from lessen.surgery.forms.codes import Coded


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """What is asked of a way to round, for one weight.

    Args:
        bits: Of a code.
        group: How many weights of a row share a step.
        symmetric: Whether zero has the middle code.
        gram: The sum over the inputs x of x x^T, shape (I, I), float64; None for ways that need no inputs.
        kept: Boolean, shape (O, I): where weights are not pruned; None where none are.
    """

    bits: int
    group: int
    symmetric: bool
    gram: Tensor | None = None
    kept: Tensor | None = None


@runtime_checkable
class Method(Protocol):
    """A settings object that rounds weights. What is pruned (exactly zero, or not kept) stays exactly zero."""

    card: ClassVar[Card]
    needs_inputs: ClassVar[bool]

    def round(self, weight_OI: Tensor, rounding: Rounding) -> Coded:
        """The codes of a weight, shape (O, I), float64."""


def output_error(change_OI: Tensor, gram_II: Tensor) -> Tensor:
    """The squared error of each row's outputs when its weights change so, summed over the inputs, shape (O,).

    >>> import torch
    >>> output_error(torch.tensor([[1.0, 2.0]]), torch.eye(2))
    tensor([5.])
    """
    return ((change_OI @ gram_II) * change_OI).sum(1)
