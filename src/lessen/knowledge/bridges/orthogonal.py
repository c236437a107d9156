"""An orthogonal bridge: lengths and angles of the student's features reach the teacher's space unchanged.

Miles et al., VkD: improving knowledge distillation using orthogonal projections, CVPR 2024,
arXiv:2403.06213, section 3.

Shapes, by their number of axes: 2 a vector (N, C); 3 tokens (N, T, C); 4 a grid (N, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import orthogonal

from lessen.core import Card, settings
from lessen.core.errors import ShapeError
from lessen.functional.channels import channels_of


class OrthogonalMap(nn.Module):
    """A linear map of channels whose weight has orthonormal columns, or rows where the features get narrower.

    Args:
        before: Channels of what comes in.
        after: Channels of what goes out.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.linear = nn.Linear(before, after, bias=False)
        orthogonal(self.linear)

    def forward(self, features: Tensor) -> Tensor:
        if features.ndim == 4:
            return F.conv2d(features, self.linear.weight[:, :, None, None])
        mapped: Tensor = self.linear(features)
        return mapped


@settings
class OrthogonalBridge:
    """A learned orthogonal map (projector) from the student's channels to the teacher's, the same at every position.

    It is used even if both have the same number of channels, because the two spaces still differ by a rotation.
    """

    card: ClassVar[Card] = Card(
        row="knowledge / bridges",
        paper="VkD, arXiv:2403.06213",
        says="The bridge can rotate the student's features, but not rescale or distort them.",
        costs="C x C' weights while training, kept orthogonal by Householder reflections, or a matrix exponential "
        "where C = C'; nothing in the shipped model.",
        fails_when="The student is wider than the teacher: directions orthogonal to the bridge are not taught. Or the "
        "two differ in scale: normalise the teacher (see NormalizedHint).",
        differs="PyTorch's parametrisation; the paper uses a truncated matrix exponential.",
    )

    def build(self, student_shape: Sequence[int], teacher_shape: Sequence[int]) -> nn.Module:
        before, after = tuple(student_shape), tuple(teacher_shape)
        place = slice(1, 2) if len(before) == 3 else slice(2, None)
        if len(before) not in (2, 3, 4) or len(before) != len(after) or before[place] != after[place]:
            raise ShapeError(
                f"OrthogonalBridge maps channels, at the same positions, but the student has {before} and the teacher "
                f"{after}. Tap other layers, or use a bridge that also maps positions."
            )
        return OrthogonalMap(channels_of(before), channels_of(after))
