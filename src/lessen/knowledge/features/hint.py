"""Hints: the student's features follow the teacher's.

Romero et al., FitNets: hints for thin deep nets, ICLR 2015, arXiv:1412.6550, section 2.2.

Shapes: (N, ...), the same for both; a bridge on the edge makes them so.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.shapes import require_same, wide
from lessen.knowledge.axes.distances import Distance, SquaredDistance


@settings
class Hint:
    """Match features element by element.

    Args:
        distance: How two tensors are compared.
    """

    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="arXiv:1412.6550",
        says="The student's features, through a learned bridge, equal the teacher's.",
        costs="Nothing in the shipped model; a bridge and a pass over two feature maps per step.",
        fails_when="The student is too thin for the teacher's features, or its architecture differs (published results "
        "are below the plain student on MobileNetV2). Or the weight was copied from code with another reduction.",
        differs="The mean over all elements, where the paper sums and halves: the weight does not depend on the shape. "
        "Trained together with other edges; the paper trains it first, which is two stages.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="Hint", least=2, advice="Put a bridge on the edge, as bridge=AutoBridge().")
        return self.distance(wide(student), wide(teacher)).to(student.dtype)
