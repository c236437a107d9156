"""Channel-wise distribution: each channel as a distribution over positions.

Shu et al., Channel-wise knowledge distillation for dense prediction, ICCV 2021, arXiv:2011.13256, section 3.2.

Shapes: N examples, C channels, P positions (H * W of a map, or tokens).
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.channels import both_by_channel
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.logits.soft_targets import soft_targets


@settings
class ChannelDistribution:
    """Match where each channel is active: soft targets over positions instead of classes, averaged over channels.

    Args:
        temperature: Divides the features; a higher temperature takes in more of the map.
        divergence: How two distributions over positions are compared.
    """

    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    divergence: Divergence = ForwardKL()

    card: ClassVar[Card] = Card(
        row="knowledge / indirect features",
        paper="arXiv:2011.13256 (CWD)",
        says="T^2 / C times the sum over channels of KL(softmax over positions of teacher / T || of student / T).",
        costs="Nothing in the shipped model; one pass over two maps per step.",
        fails_when="The task does not depend on position: it was made for dense prediction. Or channels do not "
        "correspond: a bridge (projector) must align them, unless the networks share an initialisation.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = both_by_channel(
            student,
            teacher,
            what="ChannelDistribution",
            advice="Put a bridge on the edge, as bridge=AutoBridge().",
        )
        # Each channel takes the place of an example, and positions that of classes.
        rows = (side_NCP.flatten(0, 1) for side_NCP in sides)
        losses = soft_targets(*rows, temperature=self.temperature, divergence=self.divergence)
        return losses.view(len(student), -1).mean(1).to(student.dtype)
