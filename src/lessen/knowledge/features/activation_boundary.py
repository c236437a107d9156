"""Activation boundary: which neurons fire, not how strongly.

Heo et al., Knowledge transfer via distillation of activation boundaries formed by hidden neurons, AAAI 2019,
arXiv:1811.03233, equation 5. Known as AB.

Shapes: (N, ...), the same for both, before the activation; a bridge on the edge makes them so.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.shapes import per_example, require_same, wide


def boundary_loss(student: Tensor, teacher: Tensor, *, margin: float) -> Tensor:
    """The squared distance of each student's value from the right side of zero, beyond a margin; the taps' shape.

    The right side is where the teacher's value is: above `margin` where the teacher fires, below `-margin` where not.

    >>> boundary_loss(torch.tensor([0.5, 0.5, 3.0]), torch.tensor([9.0, -0.1, 0.1]), margin=1.0)
    tensor([0.2500, 2.2500, 0.0000])
    """
    return torch.where(teacher > 0, F.relu(margin - student), F.relu(margin + student)).square()


@settings
class ActivationBoundary:
    """Make the student's neurons active where the teacher's are. Tap both networks before the activation.

    Args:
        margin: The distance from zero, on the right side, at which the loss of a neuron becomes zero.
    """

    margin: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="AB, arXiv:1811.03233",
        says="Each neuron of the student is on the teacher's side of zero.",
        costs="Nothing in the shipped model; a bridge and a pass over two feature maps per step.",
        fails_when="The taps are after the activation, where nothing is below zero. Magnitudes are not taught, so "
        "this objective alone only initialises: labels or soft targets must follow (see the scheme "
        "`Staged`).",
        differs="The mean over all elements, where the paper sums: the weight does not depend on the shape, and half "
        "precision cannot overflow.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(
            student,
            teacher,
            what="ActivationBoundary",
            least=2,
            advice="Put a bridge on the edge, as bridge=AutoBridge().",
        )
        return per_example(boundary_loss(wide(student), wide(teacher), margin=self.margin), student)
