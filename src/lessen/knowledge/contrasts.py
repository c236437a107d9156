"""Two ways to tell a true pair from K others, given how alike they are.

Noise-contrastive estimation: Gutmann & Hyvarinen, AISTATS 2010; as Tian et al. use it, ICLR 2020, arXiv:1910.10699.
InfoNCE: van den Oord et al., Representation learning with contrastive predictive coding, arXiv:1807.03748.

Shapes: N examples, K negatives of each, of which some may not count.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_AT_ONCE = 1 << 16
"""So many numbers fit the cache of a core."""
_FAR = 40.0
"""From here on log(1 + e^x) is x, in 64 bits as well."""


@dataclass(frozen=True)
class Scores:
    """How alike the examples of a batch are to what a memory has of them, and of others.

    Args:
        positive: With the example itself, shape (N,).
        negative: With others, shape (N, K).
        counts: Whether the other is no example of the same class, shape (N, K).
        scale: What `negative` is still to be multiplied by; to do it at once would write N x K numbers once more.
    """

    positive: Tensor
    negative: Tensor
    counts: Tensor
    scale: float = 1.0

    def over(self, temperature: float) -> Scores:
        """The same, divided by a temperature."""
        return Scores(self.positive / temperature, self.negative, self.counts, self.scale / temperature)

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
    refused_N, counting_N = _SumOfSoftplus.apply(scores.negative, scores.scale, log_noise, scores.counts)
    share_N = negatives / counting_N.clamp_min(1)
    loss_N: Tensor = F.softplus(log_noise - scores.positive) + share_N * refused_N
    return loss_N


class _SumOfSoftplus(torch.autograd.Function):
    """The sum over what counts of log(1 + e^(scale x - shift)), and how many count, each (N,), a few examples at once.

    Element by element over all N x K at once, each step would go through memory, and PyTorch's softplus would take the
    logarithm of 1 + x, which is slow on a CPU. Here log(1 + e) is log(u) e / (u - 1) with u the rounded 1 + e: what
    rounding took from u, it took from both (Kahan, as in Goldberg, What every computer scientist should know about
    floating-point arithmetic, theorem 4).
    """

    @staticmethod
    def forward(ctx: Any, x_NK: Tensor, scale: float, shift: Tensor, counts_NK: Tensor) -> tuple[Tensor, Tensor]:
        sums, numbers, slopes_NK = [], [], torch.empty_like(x_NK)
        step = max(1, _AT_ONCE // x_NK.shape[1]) if x_NK.device.type == "cpu" else len(x_NK)
        for part, counts, slope in zip(x_NK.split(step), counts_NK.split(step), slopes_NK.split(step), strict=True):
            x = (part * scale).sub_(shift)
            mask = counts.to(x.dtype)
            e = x.clamp(max=_FAR).exp_()
            u = e + 1
            torch.div(e, u, out=slope).mul_(mask)
            rest = u - 1
            small = rest == 0
            exact = u.log_().mul_(e).div_(rest.masked_fill_(small, 1.0))
            value = torch.where(small, e, exact).add_(x.sub_(_FAR).clamp_(min=0.0))
            sums.append(value.mul_(mask).sum(1))
            numbers.append(mask.sum(1))
        ctx.save_for_backward(slopes_NK)
        ctx.scale = scale
        counting_N = torch.cat(numbers)
        ctx.mark_non_differentiable(counting_N)
        return torch.cat(sums), counting_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_N: Tensor, _: Any) -> tuple[Tensor, None, Tensor | None, None]:
        (slopes_NK,) = ctx.saved_tensors
        by_shift = -(slopes_NK.sum(1) * gradient_N).sum() if ctx.needs_input_grad[2] else None
        return slopes_NK * (ctx.scale * gradient_N[:, None]), None, by_shift, None


def information_contrast(scores: Scores) -> Tensor:
    """InfoNCE: minus the log-probability of the positive among itself and K negatives: shape (N,), in nat.

    Where not all negatives count, those that do stand for K.
    """
    negatives = scores.negative.shape[1]
    stand_for_N = math.log(negatives) - scores.counting().log()
    negative_NK = (scores.scale * scores.negative + stand_for_N[:, None]).masked_fill(~scores.counts, -math.inf)
    return torch.cat([scores.positive[:, None], negative_NK], dim=1).logsumexp(1) - scores.positive


def mean_of_exponentials(scores: Scores) -> Tensor:
    """The logarithm of the mean of e^score over the positives and the negatives that count: a scalar."""
    negative = (scores.scale * scores.negative).masked_fill(~scores.counts, -math.inf).flatten()
    count = scores.counts.sum().to(negative.dtype) + len(scores.positive)
    return torch.cat([scores.positive, negative]).logsumexp(0) - count.log()
