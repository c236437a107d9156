"""A bottleneck bridge: three convolutions, narrow in the middle, that end in a ReLU as the teacher's features do.

Chen et al., Knowledge distillation with the reused teacher classifier, CVPR 2022, arXiv:2203.14001, section 3.2. The
projector of SimKD.

Shapes: N examples, C channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import Field
from torch import nn

from lessen.core import Card, settings
from lessen.core.errors import ShapeError
from lessen.knowledge.bridges.bridges import ResolutionBridge


@settings
class BottleneckBridge:
    """A projector: resize to the teacher's grid, then a bottleneck of 1 x 1, 3 x 3 and 1 x 1 convolutions.

    Args:
        reduction: The number of the teacher's channels divided by the number of channels of the bottleneck.
    """

    reduction: Annotated[int, Field(ge=1)] = 2

    card: ClassVar[Card] = Card(
        row="knowledge / bridges",
        paper="SimKD, arXiv:2203.14001",
        says="A learned map of channels and their neighbourhood, with batch norm and ReLU after each convolution.",
        costs="About C'^2 / f + 9 C'^2 / f^2 weights for C' channels of the teacher and a reduction f; they are "
        "shipped if the student keeps its projector (`borrow_head`).",
        fails_when="It is so wide that it does the student's work. Or the teacher's features can be negative, which "
        "the final ReLU cannot match.",
        differs="The student's map is resized; the authors pool the larger of the two.",
    )

    def build(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
        if len(student_shape) != 4 or len(teacher_shape) != 4:
            raise ShapeError(
                f"BottleneckBridge maps a grid (N, C, H, W) to another, not the student's {tuple(student_shape)} to "
                f"the teacher's {tuple(teacher_shape)}. Tap convolutional layers, or use AutoBridge()."
            )
        before, after = student_shape[1], teacher_shape[1]
        middle = max(after // self.reduction, 1)
        resize = ResolutionBridge().build(student_shape, teacher_shape)
        layers = [*_convolution(before, middle, 1), *_convolution(middle, middle, 3), *_convolution(middle, after, 1)]
        return nn.Sequential(*([] if isinstance(resize, nn.Identity) else [resize]), *layers)


def _convolution(before: int, after: int, size: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    return [convolution, nn.BatchNorm2d(after), nn.ReLU()]
