"""Masked generation: from a part of its features the student must generate all of the teacher's.

Yang et al., Masked generative distillation, ECCV 2022, arXiv:2205.01529, section 3. Known as MGD.

Shapes: N examples, C channels, H x W positions.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, TaskFacts, settings
from lessen.core.errors import ShapeError
from lessen.functional.shapes import require_same, wide
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def keep_some(features_NCHW: Tensor, *, masked: float, channels: bool = False) -> Tensor:
    """The features with positions, or whole channels, set to 0, each with the probability `masked`; drawn again."""
    count, width, *grid = features_NCHW.shape
    shape = (count, width, 1, 1) if channels else (count, 1, *grid)
    kept = torch.rand(shape, device=features_NCHW.device) >= masked
    return features_NCHW * kept


@settings
class MaskedGeneration:
    """Generate the teacher's feature map from the student's masked map, through two 3 x 3 convolutions.

    Args:
        masked: The probability that a position is masked; 0 masks nothing.
        channels: Mask whole channels instead of positions.
        distance: How the generated map is compared.
    """

    masked: Annotated[float, Field(ge=0, lt=1)] = 0.5
    channels: bool = False
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="MGD, arXiv:2205.01529",
        says="Each part of the student's features is rich enough to restore the teacher's whole map.",
        costs="Two 3 x 3 convolutions of the teacher's width while training, nothing in the shipped model.",
        fails_when="The map is 1 x 1, or so small that the convolutions see all of it and do the student's work.",
        differs="The mean over all elements, where released code sums (and weighs by 2e-5). Nothing is masked in eval "
        "mode. Released code masks positions for detection (0.65) and channels for classification (0.15).",
    )

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        if len(teacher_shape) != 4 or tuple(student_shape[1:]) != tuple(teacher_shape[1:]):
            raise ShapeError(
                f"MaskedGeneration needs feature maps (N, C, H, W) of the same shape, but the student has "
                f"{tuple(student_shape)} and the teacher {tuple(teacher_shape)}. Tap convolutional layers, and put a "
                "bridge on the edge, as bridge=AutoBridge()."
            )
        return MaskedGenerationLoss(teacher_shape[1], self)


class MaskedGenerationLoss(nn.Module):
    """See `MaskedGeneration`.

    Args:
        channels: C.
        settings: What made it.
    """

    card: ClassVar[Card] = MaskedGeneration.card

    def __init__(self, channels: int, settings: MaskedGeneration) -> None:
        super().__init__()
        self.settings = settings
        self.generate = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        advice = "Put a bridge on the edge, as bridge=AutoBridge()."
        require_same(student, teacher, what="MaskedGeneration", least=4, advice=advice)
        seen = wide(student)
        if self.training:
            seen = keep_some(seen, masked=self.settings.masked, channels=self.settings.channels)
        return self.settings.distance(wide(self.generate(seen)), wide(teacher)).to(student.dtype)
