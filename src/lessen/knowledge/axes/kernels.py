"""Which kernel compares two sets of vectors: an axis of its own, as distances are for two tensors.

Gretton et al., A kernel two-sample test, JMLR 2012: the maximum mean discrepancy is the distance between the means of
two sets in the space of the kernel; its square is mean k(s, s') + mean k(t, t') - 2 mean k(s, t).

Shapes: N examples, A student's vectors, B teacher's vectors, P features of a vector. Nothing larger than a matrix of
A x A, A x B, B x B or P x P figures an example is ever made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings

_ROW = "knowledge / kernels"
_PAPER = "JMLR 2012 (Gretton et al.)"


@runtime_checkable
class Kernel(Protocol):
    """From two sets of vectors, (N, A, P) and (N, B, P), to their squared discrepancy, (N,); never below 0."""

    card: ClassVar[Card]

    def __call__(self, student_NAP: Tensor, teacher_NBP: Tensor, /) -> Tensor: ...


def discrepancy_of_gram(kernel: Callable[[Tensor], Tensor], student_NAP: Tensor, teacher_NBP: Tensor) -> Tensor:
    """The squared discrepancy for a kernel that is a function of the product of two vectors, shape (N,)."""
    terms = ((student_NAP, student_NAP, 1), (teacher_NBP, teacher_NBP, 1), (student_NAP, teacher_NBP, -2))
    return torch.stack([factor * kernel(a @ b.transpose(1, 2)).mean((1, 2)) for a, b, factor in terms]).sum(0)


@settings
class LinearKernel:
    """k(a, b) = a . b: compares the means of the two sets, and nothing else."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper=_PAPER,
        says="The squared distance between the two mean vectors.",
        costs="One pass over the vectors.",
        fails_when="Two sets differ in spread but not in their mean: it is 0.",
    )

    def __call__(self, student_NAP: Tensor, teacher_NBP: Tensor, /) -> Tensor:
        return (student_NAP.mean(1) - teacher_NBP.mean(1)).square().sum(1)


@settings
class PolynomialKernel:
    """k(a, b) = (a . b + offset) ^ degree: compares moments up to the degree.

    Args:
        degree: Which moments are compared; 2 compares the matrices of products of features.
        offset: With an offset above 0, moments below the degree count too.
    """

    degree: Annotated[int, Field(ge=1)] = 2
    offset: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper=_PAPER,
        says="The squared distance between the moments of the two sets.",
        costs="Three matrix products, or two where there are fewer features than vectors.",
        fails_when="The degree is high and vectors are longer than 1: a few of them then dominate.",
    )

    def __call__(self, student_NAP: Tensor, teacher_NBP: Tensor, /) -> Tensor:
        a, b, p = student_NAP.shape[1], teacher_NBP.shape[1], student_NAP.shape[2]
        if self.degree == 2 and self.offset == 0 and 2 * p * p < a * a + b * b + a * b:
            # (a . b)^2 is the product of the matrices a a^T and b b^T, so the means of these are all that is needed.
            moments = [x.transpose(1, 2) @ x / x.shape[1] for x in (student_NAP, teacher_NBP)]
            return (moments[0] - moments[1]).square().sum((1, 2))
        return discrepancy_of_gram(lambda dot: (dot + self.offset).pow(self.degree), student_NAP, teacher_NBP)


@settings
class GaussianKernel:
    """k(a, b) = exp(-|a - b|^2 / (2 variance)): compares all moments of the two sets; pairs of near vectors count most.

    Args:
        variance: The squared width of the kernel. None: for each example, the mean squared distance between a student's
            vector and a teacher's; the gradient flows through it.
    """

    variance: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper=_PAPER,
        says="The squared distance between the two distributions, smoothed by a Gaussian window.",
        costs="Three matrix products, and the exponential of each of their entries.",
        fails_when="The variance is far from the distances that occur: every pair looks alike, and gradients vanish.",
    )

    def __call__(self, student_NAP: Tensor, teacher_NBP: Tensor, /) -> Tensor:
        lengths = [x.square().sum(2) for x in (student_NAP, teacher_NBP)]
        if self.variance is None:
            means = student_NAP.mean(1), teacher_NBP.mean(1)
            variance = lengths[0].mean(1) + lengths[1].mean(1) - 2 * (means[0] * means[1]).sum(1)
            twice = 2 * variance.clamp(min=torch.finfo(variance.dtype).eps)[:, None, None]
        else:
            twice = student_NAP.new_full((1, 1, 1), 2 * self.variance)

        def mean(one: int, other: int) -> Tensor:
            sides = (student_NAP, teacher_NBP)
            dot = sides[one] @ sides[other].transpose(1, 2)
            squared = lengths[one].unsqueeze(2) + lengths[other].unsqueeze(1) - 2 * dot
            return (-squared / twice).exp().mean((1, 2))

        return mean(0, 0) + mean(1, 1) - 2 * mean(0, 1)
