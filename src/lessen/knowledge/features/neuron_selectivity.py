"""Neuron selectivity transfer: the student's channels fire at the places where the teacher's do.

Huang & Wang, Like what you like: knowledge distill via neuron selectivity transfer, 2017, arXiv:1707.01219, section 4.

Shapes: N examples, C channels, P positions (H * W of a map, or tokens).
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.channels import both_by_channel, unit
from lessen.functional.pairs import full_precision
from lessen.knowledge.axes.kernels import Kernel, PolynomialKernel


@settings
class NeuronSelectivity:
    """Match the set of channels of a feature map, each a unit vector over positions; their number and order are free.

    Args:
        kernel: How two sets of vectors are compared. The paper uses `PolynomialKernel()` of degree 2, `LinearKernel()`
            and `GaussianKernel()`.
    """

    kernel: Kernel = PolynomialKernel()

    card: ClassVar[Card] = Card(
        row="knowledge / indirect features",
        paper="arXiv:1707.01219 (NST)",
        says="The distribution of the student's channels over positions follows the teacher's, by the squared maximum "
        "mean discrepancy.",
        costs="Nothing in the shipped model; one product of channels x channels, or positions x positions, per example "
        "and step.",
        fails_when="Maps have few positions, or student and teacher look at different scales. With LinearKernel, only "
        "the mean map is taught.",
        differs="The discrepancy is computed for each example and averaged over examples, as in released code. That "
        "code builds all pairs of channels at all positions. Weights near 50 are usual with the polynomial kernel.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = both_by_channel(
            student,
            teacher,
            what="NeuronSelectivity",
            same=("positions",),
            advice="Put a bridge on the edge, as bridge=ResolutionBridge().",
        )
        with full_precision(student):
            return self.kernel(*(unit(side_NCP, 2) for side_NCP in sides)).to(student.dtype)
