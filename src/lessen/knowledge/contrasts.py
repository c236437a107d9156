"""Two ways to tell a true pair from K others, given how alike they are.

Noise-contrastive estimation: Gutmann & Hyvarinen, AISTATS 2010; as Tian et al. use it, ICLR 2020, arXiv:1910.10699.
InfoNCE: van den Oord et al., Representation learning with contrastive predictive coding, arXiv:1807.03748.

Shapes: N examples, K negatives of each, of which some may not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Scores:
    """How alike the examples of a batch are to what a memory has of them, and of others.

    Args:
        positive: With the example itself, shape (N,).
        negative: With others, shape (N, K).
        counts: Whether the other is no example of the same class, shape (N, K).
    """

    positive: Tensor
    negative: Tensor
    counts: Tensor

    def over(self, temperature: float) -> Scores:
        """The same, divided by a temperature."""
        return Scores(self.positive / temperature, self.negative / temperature, self.counts)

    def counting(self) -> Tensor:
        """How many negatives count, at least one: shape (N,)."""
        return self.counts.sum(1).clamp_min(1).to(self.negative.dtype)


def noise_contrast(scores: Scores, log_constant: Tensor) -> Tensor:
    """Noise-contrastive estimation with K negatives to a positive: one loss an example, shape (N,).

    h = e^score / (e^score + K constant) is how likely a pair is the true one; the loss is -log h of the positive, and
    K times the mean of -log(1 - h) of the negatives that count.

    Args:
        scores: Divided by the temperature.
        log_constant: The logarithm of the mean of e^score over all pairs.
    """
    negatives = scores.negative.shape[1]
    log_noise = log_constant + math.log(negatives)
    refused_N = (F.softplus(scores.negative - log_noise) * scores.counts).sum(1)
    share_N = negatives / scores.counting()
    return F.softplus(log_noise - scores.positive) + share_N * refused_N


def information_contrast(scores: Scores) -> Tensor:
    """InfoNCE: minus the log-probability of the positive among itself and K negatives: shape (N,), in nat.

    Where not all negatives count, those that do stand for K.
    """
    negatives = scores.negative.shape[1]
    stand_for_N = math.log(negatives) - scores.counting().log()
    negative_NK = (scores.negative + stand_for_N[:, None]).masked_fill(~scores.counts, -math.inf)
    return torch.cat([scores.positive[:, None], negative_NK], dim=1).logsumexp(1) - scores.positive


def mean_of_exponentials(scores: Scores) -> Tensor:
    """The logarithm of the mean of e^score over the positives and the negatives that count: a scalar."""
    negative = scores.negative.masked_fill(~scores.counts, -math.inf).flatten()
    count = scores.counts.sum().to(negative.dtype) + len(scores.positive)
    return torch.cat([scores.positive, negative]).logsumexp(0) - count.log()
