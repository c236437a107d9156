"""Correlation congruence: the student's kernel between examples is the teacher's.

Peng et al., Correlation congruence for knowledge distillation (CC), ICCV 2019, arXiv:1904.01802, section 3.2 to 3.3.

Shapes: N examples, features of any shape, flattened to C; the widths of student and teacher may differ.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import cosines, paired_rows
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def gaussian_kernel(rows_NC: Tensor, *, sharpness: float, order: int) -> Tensor:
    """exp(-sharpness |x_i - x_j|^2) of rows scaled to unit length, by its Taylor series in x_i x_j: shape (N, N).

    The distance is 2 - 2 x_i x_j there, so the kernel is exp(-2 g) times the sum over p to `order` of
    (2 g x_i x_j)^p / p!.

    >>> import torch
    >>> kernel = gaussian_kernel(torch.eye(2), sharpness=0.4, order=2)
    >>> [round(float(value), 4) for value in kernel[0]]
    [0.9526, 0.4493]
    """
    cosine_NN = cosines(rows_NC)
    kernel_NN = cosine_NN.new_zeros(())
    for power in range(order, -1, -1):  # Horner's scheme: one product for each order
        kernel_NN = kernel_NN * cosine_NN + (2 * sharpness) ** power / math.factorial(power)
    return math.exp(-2 * sharpness) * kernel_NN


@settings
class CorrelationCongruence:
    """Match a Gaussian kernel between all pairs of examples; the two networks' features may differ in width.

    The loss of an example is the mean over the N entries of its row, so the mean over examples is the paper's squared
    norm divided by N^2.

    Args:
        sharpness: The factor of the squared distance in the kernel (the paper's gamma, 1 / (2 delta^2)).
        order: The highest power of its Taylor series.
        distance: How a row is compared with the teacher's.
    """

    sharpness: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.4
    order: Annotated[int, Field(ge=1, le=100)] = 2
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="CC, arXiv:1904.01802",
        says="The student's Gaussian kernel matrix of the batch is the teacher's.",
        costs="Nothing in the shipped model; a product of N x C matrices per step.",
        fails_when="The batch has few pairs of one class (the authors sample batches for it), or the length of the "
        "features matters, which is not compared.",
        differs="The paper's norm of a difference of correlations. Widely used code multiplies the absolute "
        "differences of neighbours in the batch instead, which is no norm and depends on their order; its "
        "weight (0.02) does not carry over.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = paired_rows(student, teacher, what="CorrelationCongruence")
        kernels = (gaussian_kernel(side, sharpness=self.sharpness, order=self.order) for side in sides)
        return self.distance(*kernels).to(student.dtype)
