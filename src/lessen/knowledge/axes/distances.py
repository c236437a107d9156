"""Which distance a loss on features uses: an axis of its own, as divergences are for distributions."""

from __future__ import annotations

from typing import Annotated, ClassVar, Protocol, runtime_checkable

from pydantic import Field
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
        fails_when="Student and teacher almost agree: the gradient does not shrink.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.mean_absolute(student, teacher)


@settings
class HuberDistance:
    """The mean of a loss that is squared for small differences and absolute for large ones (smooth L1).

    Args:
        threshold: The difference at which the squared part changes to the absolute part.
    """

    threshold: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Huber 1964, divided by the threshold as in Fast R-CNN, arXiv:1504.08083",
        says="Outliers do not dominate, and the gradient shrinks near agreement.",
        costs="One pass over the tensors.",
        fails_when="Differences are all far below or all far above the threshold: the loss is then purely squared or "
        "purely absolute.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.mean_huber(student, teacher, threshold=self.threshold)


@settings
class EuclideanDistance:
    """The length of the difference, not squared."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Euclid, Elements I.47",
        says="The gradient has the same length for every example, however large the difference; it is zero at zero.",
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
        fails_when="A tensor is all zeros, as after a dead ReLU: the distance is then 1, even between two zero "
        "tensors.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.cosine(student, teacher)


@settings
class LogSumDistance:
    """log(1 + the sum of absolute differences to a power) over all axes of an example.

    Args:
        power: A larger power lets the largest difference dominate more.
    """

    power: Annotated[float, Field(ge=1, le=8)] = 4.0

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="SRD, arXiv:2303.11098, section 3.3",
        says="A soft maximum of the differences: the worst features count most, whatever their scale.",
        costs="One pass over the tensors.",
        fails_when="Student and teacher almost agree: with a power above 1 the gradient there is almost zero.",
        differs="The paper has no 1 inside the logarithm, so its loss is unbounded below at equality; it also sums "
        "over the whole batch.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        return functional.log_sum(student, teacher, power=self.power)
