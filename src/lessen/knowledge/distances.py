"""Which distance a loss on features uses: an axis of its own, as divergences are for distributions."""

from __future__ import annotations

from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional import distances as functional

_ROW = "knowledge / distances"


@runtime_checkable
class Distance(Protocol):
    """From two tensors of one shape (N, ...) to (N,); zero where they agree, never negative."""

    card: ClassVar[Card]

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor: ...


@settings
class SquaredDistance:
    """The mean of squared differences over all axes of an example."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Gauss 1809",
        says="Large differences count most; the scale does not depend on the size of the tensor.",
        costs="One pass over the tensors.",
        fails_when="A few positions of the teacher are outliers.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.mean_squared(student, teacher)


@settings
class AbsoluteDistance:
    """The mean of absolute differences over all axes of an example."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Laplace 1774",
        says="Every difference counts in proportion; outliers do not dominate.",
        costs="One pass over the tensors.",
        fails_when="Student and teacher almost agree: the gradient does not become smaller.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.mean_absolute(student, teacher)


@settings
class EuclideanDistance:
    """The length of the difference, not squared."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Euclid, Elements I.47",
        says="Each example pulls with the same force however far it is; zero gradient at zero.",
        costs="One pass over the tensors.",
        fails_when="Student and teacher almost agree: the gradient keeps its length and flips its sign.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.euclidean(student, teacher)


@settings
class CosineDistance:
    """1 - cosine of the angle between the flattened tensors: the direction counts, the length does not."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Kim et al. 2021, arXiv:2105.08919",
        says="The student's features point where the teacher's do.",
        costs="One pass over the tensors.",
        fails_when="A tensor is zero, as after a dead rectifier: the distance is then 1, also between two zeros.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.cosine(student, teacher)
