"""Two ways to tell a true pair from K others by similarity.

Noise-contrastive estimation: Gutmann & Hyvarinen, AISTATS 2010; as Tian et al. use it, ICLR 2020, arXiv:1910.10699.
InfoNCE: van den Oord et al., Representation learning with contrastive predictive coding, arXiv:1807.03748.

Shapes: N examples, K negatives of each, of which some may not count, vectors of D numbers, M of them in a memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lessen.functional.pairs import full_precision

_AT_ONCE = 1 << 16
"""So many numbers fit the cache of a core."""
_FAR = 40.0
"""From here on log(1 + e^x) is x, in 64 bits as well."""


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How alike the examples of a batch are to what a memory has of them, and of others: inner products, scaled.

    Args:
        positive: With the example itself, shape (N,), scaled.
        anchors: The examples, shape (N, D).
        bank: The memory, shape (M, D).
        others: Which of it they are compared with, shape (K,).
        counts: Whether the other is no example of the same class, shape (N, K).
        scale: What inner products are multiplied by.
    """

    positive: Tensor
    anchors: Tensor
    bank: Tensor
    others: Tensor
    counts: Tensor
    scale: float = 1.0

    def over(self, temperature: float) -> Scores:
        """The same, divided by a temperature."""
        return replace(self, positive=self.positive / temperature, scale=self.scale / temperature)

    def negative(self) -> Tensor:
        """With the others, shape (N, K). The rows are copied: the memory may be written to before a backward pass."""
        with full_precision(self.anchors):
            return self.scale * (self.anchors @ self.bank.index_select(0, self.others).T)

    def counting(self) -> Tensor:
        """How many negatives count, at least one: shape (N,)."""
        return self.counts.sum(1).clamp_min(1).to(self.positive.dtype)


def noise_contrast(scores: Scores, log_constant: Tensor) -> Tensor:
    """Noise-contrastive estimation with K negatives to a positive: one loss per example, shape (N,).

    h = e^score / (e^score + K constant) is how likely a pair is the true one; the loss is -log h of the positive, and
    K times the mean of -log(1 - h) of the negatives that count.

    Args:
        scores: Divided by the temperature.
        log_constant: The logarithm of the mean of e^score over all pairs.
    """
    negatives = len(scores.others)
    log_noise = log_constant + math.log(negatives)
    with full_precision(scores.anchors):
        refused_N, counting_N = _SumOfSoftplus.apply(scores.anchors, log_noise, scores)
    share_N = negatives / counting_N.clamp_min(1)
    loss_N: Tensor = F.softplus(log_noise - scores.positive) + share_N * refused_N
    return loss_N


class _SumOfSoftplus(torch.autograd.Function):
    """The sum over what counts of log(1 + e^(scale a b - shift)), and how many count, each (N,), a few b at a time.

    A loss of one number per example has one gradient per example, whatever comes after it: it is made on the way, and
    nothing of N x K numbers is kept or goes through memory. PyTorch's softplus would also take the logarithm of 1 + x,
    which is slow on a CPU. Here log(1 + e) is log(u) e / (u - 1) with u the rounded 1 + e: what rounding took from u,
    it took from both (Kahan, as in Goldberg, What every computer scientist should know about floating-point arithmetic,
    theorem 4).
    """

    @staticmethod
    def forward(ctx: Any, anchors_ND: Tensor, shift: Tensor, scores: Scores) -> tuple[Tensor, Tensor]:
        sum_N, counting_N, slope_N = (anchors_ND.new_zeros(len(anchors_ND)) for _ in range(3))
        slopes_ND = torch.zeros_like(anchors_ND)
        step = max(1, _AT_ONCE // len(anchors_ND)) if anchors_ND.device.type == "cpu" else len(scores.others)
        for others, counts in zip(scores.others.split(step), scores.counts.split(step, dim=1), strict=True):
            rows, mask = scores.bank.index_select(0, others), counts.to(anchors_ND.dtype)
            x = (anchors_ND @ rows.T).mul_(scores.scale).sub_(shift)
            e = x.clamp(max=_FAR).exp_()
            u = e + 1
            if any(ctx.needs_input_grad):
                slope = (e / u).mul_(mask)
                slopes_ND.addmm_(slope, rows)
                slope_N += slope.sum(1)
            rest = u - 1
            small = rest == 0
            exact = u.log_().mul_(e).div_(rest.masked_fill_(small, 1.0))
            value = torch.where(small, e, exact).add_(x.sub_(_FAR).clamp_(min=0.0))
            sum_N += value.mul_(mask).sum(1)
            counting_N += mask.sum(1)
        ctx.save_for_backward(slopes_ND, slope_N)
        ctx.scale = scores.scale
        ctx.mark_non_differentiable(counting_N)
        return sum_N, counting_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor, _: Any) -> tuple[Tensor | None, ...]:
        slopes_ND, slope_N = ctx.saved_tensors
        by_anchors = ctx.scale * gradient_N[:, None] * slopes_ND
        return by_anchors, -(slope_N * gradient_N).sum(), None


def information_contrast(scores: Scores) -> Tensor:
    """InfoNCE: minus the log-probability of the positive among itself and K negatives: shape (N,), in nat.

    If not all negatives count, K is the number of those that do.
    """
    negatives = len(scores.others)
    stand_for_N = math.log(negatives) - scores.counting().log()
    negative_NK = (scores.negative() + stand_for_N[:, None]).masked_fill(~scores.counts, -math.inf)
    return torch.cat([scores.positive[:, None], negative_NK], dim=1).logsumexp(1) - scores.positive


def mean_of_exponentials(scores: Scores) -> Tensor:
    """The logarithm of the mean of e^score over the positives and the negatives that count: a scalar."""
    negative = scores.negative().masked_fill(~scores.counts, -math.inf).flatten()
    count = scores.counts.sum().to(negative.dtype) + len(scores.positive)
    return torch.cat([scores.positive, negative]).logsumexp(0) - count.log()
