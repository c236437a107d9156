"""Variational information: the student is told how sure it must be of each channel.

Ahn et al., Variational information distillation for knowledge transfer, CVPR 2019, arXiv:1904.05835, section 2.1 and
equation 5. Known as VID.

The teacher's features given the student's are taken as normal, with a variance for each channel that is learned.

Shapes: N examples, C channels, P positions; see `lessen.functional.channels`.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Card, TaskFacts, settings
from lessen.functional.channels import by_channel, channels_of
from lessen.functional.shapes import per_example, require_same

_LEAST = 1e-5  # of a variance: a channel that is matched exactly would otherwise be worth an infinite certainty


def negative_log_likelihood(student: Tensor, teacher: Tensor, variance_C: Tensor) -> Tensor:
    """Minus the log-density of the teacher's features around the student's, without log(2 pi) / 2: shape (N, C, P).

    >>> negative_log_likelihood(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([1.0, 4.0])).flatten()
    tensor([0.5000, 0.8181])
    """
    squared_NCP = (by_channel(student) - by_channel(teacher)).square()
    return (squared_NCP / variance_C[:, None] + variance_C.log()[:, None]) / 2


@settings
class VariationalInformation:
    """Match features: half the squared error over a variance that is learned for each channel, plus its logarithm.

    Args:
        variance: The initial variance of every channel. A larger value weakens the loss at first.
    """

    variance: Annotated[float, Field(gt=1e-3, allow_inf_nan=False)] = 5.0

    card: ClassVar[Card] = Card(
        row="knowledge / direct features",
        paper="VID, arXiv:1904.05835",
        says="Channels that the student cannot match count less, and it learns which these are.",
        costs="One number per channel and a bridge while training, nothing in the shipped model.",
        fails_when="The variances converge before the student has learned: channels that were hard to match at first "
        "are then ignored. The loss may be negative, so it is not a distance.",
        differs="The mean over all elements, without the constant log(2 pi) / 2. The map to the teacher's channels is "
        "the bridge of the edge; released code has three 1 x 1 convolutions there.",
    )

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        return VariationalLoss(channels_of(teacher_shape), self.variance)


class VariationalLoss(nn.Module):
    """See `VariationalInformation`.

    Args:
        channels: C.
        variance: At the start.
    """

    card: ClassVar[Card] = VariationalInformation.card

    def __init__(self, channels: int, variance: float) -> None:
        super().__init__()
        # softplus(raw) is the variance: raw is its inverse there.
        raw = variance - _LEAST
        self.raw_C = nn.Parameter(torch.full((channels,), raw + math.log(-math.expm1(-raw))))

    def variance(self) -> Tensor:
        """The variance of each channel, shape (C,)."""
        return F.softplus(self.raw_C) + _LEAST

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        advice = "Put a bridge on the edge, as bridge=AutoBridge()."
        require_same(student, teacher, what="VariationalInformation", least=2, advice=advice)
        return per_example(negative_log_likelihood(student, teacher, self.variance()), student)
