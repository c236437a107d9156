"""Overhaul of feature distillation: what the teacher's next layer would see, and no more.

Heo et al., A comprehensive overhaul of feature distillation, ICCV 2019, arXiv:1904.01866, section 3. Known as OFD.

The taps lie before the activation. The teacher's negative values do not matter to it beyond being negative: they are
cut at the mean negative value of their channel (the margin), and a student below a negative target is left alone.

Shapes: N examples, C channels, P positions; see `lessen.functional.channels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lessen.core import Card, TaskFacts, settings
from lessen.core.errors import ShapeError
from lessen.functional.channels import by_channel, channels_of
from lessen.functional.shapes import per_example, require_same


def negative_mean(mean: Tensor, deviation: Tensor) -> Tensor:
    """E[x | x < 0] of a normal distribution, in closed form: the margin of a channel behind a batch norm.

    Args:
        mean: The batch norm's bias (beta), any shape.
        deviation: Its weight (gamma), the same shape; the sign does not matter.

    Returns:
        Never above 0, in the dtype of `mean`, also where next to nothing is negative.

    >>> negative_mean(torch.tensor([0.0, -9.0, 2.0]), torch.tensor([1.0, 1.0, 0.0]))
    tensor([-0.7979, -9.0000,  0.0000])
    """
    sigma = deviation.double().abs()
    # Beyond 1e6 deviations nothing is left to say; the bound keeps the difference below from losing its digits.
    ratio = (mean.double() / sigma.clamp_min(1e-300)).clamp(-1e6, 1e6)
    # The density over the distribution function: erfcx is the tail without its underflow.
    hazard = math.sqrt(2 / math.pi) / torch.special.erfcx(ratio / math.sqrt(2))
    far = ratio.abs() >= 1e6
    value = torch.where(far, mean.double().clamp_max(0), mean.double() - sigma * hazard)
    return value.clamp_max(0).to(mean.dtype)


def partial_distance(student: Tensor, target: Tensor) -> Tensor:
    """The squared difference, and 0 where the target is not positive and the student not above it; the same shape.

    >>> partial_distance(torch.tensor([-3.0, 1.0, -1.0]), torch.tensor([-1.0, -1.0, 2.0]))
    tensor([0., 4., 9.])
    """
    free = (target <= 0) & (student <= target)
    return (student - target).square().masked_fill(free, 0.0)


def overhaul(student: Tensor, teacher: Tensor, margin_C: Tensor) -> Tensor:
    """The partial distance to the teacher's values, cut below at their channel's margin: shape (N, C, P)."""
    target_NCP = torch.maximum(by_channel(teacher), margin_C[:, None])
    return partial_distance(by_channel(student), target_NCP)


@settings
class Overhaul:
    """Match the teacher's positive values before the activation; negative ones need not match.

    Tap both networks before the activation.

    Args:
        margin: For each channel of the teacher, the value (0 or below) to which its lower values are raised. It can be
            computed from the batch norm before the tap: `tuple(negative_mean(norm.bias, norm.weight).tolist())`. None:
            a running mean of the teacher's negative values during training.
    """

    margin: tuple[float, ...] | None = None

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="OFD, arXiv:1904.01866",
        says="The student's values equal the teacher's where the teacher's are positive. Elsewhere any value at or "
        "below the teacher's (raised to the margin) costs nothing.",
        costs="One value per channel while training, nothing in the shipped model; a pass over two maps per step.",
        fails_when="The taps are after the activation: it is then a plain hint. Or the weight was copied from code "
        "that sums the loss.",
        differs="The mean over all elements, where the paper sums: the weight does not depend on the shape. The "
        "teacher stays in eval mode; the authors leave its batch norm in train mode. The closed form of the margin "
        "also holds for channels that are almost never negative, where released code jumps to -3 standard deviations. "
        "The factor 2^-k of earlier layers is set as the weight of their edges.",
    )

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        channels = channels_of(teacher_shape)
        if self.margin is not None and (len(self.margin) != channels or max(self.margin) > 0):
            raise ShapeError(
                f"Overhaul needs one margin, not above 0, for each of the teacher's {channels} channels, and got "
                f"{len(self.margin)}, the largest {max(self.margin, default=0.0):g}: the student has "
                f"{tuple(student_shape)} and the teacher {tuple(teacher_shape)}."
            )
        return OverhaulLoss(channels, self.margin)


class OverhaulLoss(nn.Module):
    """See `Overhaul`. An estimated margin is the mean of all negative values that were seen in training.

    Args:
        channels: C.
        margin: One number per channel, or None to estimate it.
    """

    card: ClassVar[Card] = Overhaul.card

    def __init__(self, channels: int, margin: Sequence[float] | None) -> None:
        super().__init__()
        self.estimated = margin is None
        self.margin_C: Tensor
        self.seen_C: Tensor
        start = torch.zeros(channels) if margin is None else torch.tensor(margin, dtype=torch.float32)
        self.register_buffer("margin_C", start)
        self.register_buffer("seen_C", torch.zeros(channels, dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        require_same(
            student, teacher, what="Overhaul", least=2, advice="Put a bridge on the edge, as bridge=AutoBridge()."
        )
        if self.estimated and self.training:
            self._look_at(teacher.detach())
        # A copy: the next pass changes the buffer, perhaps before this one's gradient is asked for.
        return per_example(overhaul(student, teacher, self.margin_C.clone()), student)

    @torch.no_grad()
    def _look_at(self, teacher: Tensor) -> None:
        values_NCP = by_channel(teacher)
        negative_NCP = values_NCP < 0
        count_C = negative_NCP.sum((0, 2))
        sum_C = values_NCP.masked_fill(~negative_NCP, 0.0).sum((0, 2))
        self.seen_C += count_C
        self.margin_C += (sum_C - count_C * self.margin_C) / self.seen_C.clamp_min(1)
