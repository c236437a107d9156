"""Divergences between two distributions over classes, given as log-probabilities.

Kullback & Leibler 1951; Jensen-Shannon with a share: Lin 1991, as in Agarwal et al., GKD, ICLR 2024, arXiv:2306.13649;
skewed: Lee 1999, as in Ko et al., DistiLLM, ICML 2024, arXiv:2402.03898; Renyi 1961; Hellinger 1909.

Shapes: N examples, C classes along axis 1, any further axes are positions and are kept: (N, C, ...) -> (N, ...).
All logarithms are natural: the unit is nat. All sum over classes, so that the value does not depend on padding classes
(the correlation apart, which is measured from the mean over classes).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.functional.correlation import pearson


def forward_kl(student_log_NC: Tensor, teacher_log_NC: Tensor) -> Tensor:
    """KL(teacher || student) = sum of t (log t - log s).

    >>> student, teacher = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]]).log()
    >>> round(float(forward_kl(student, teacher)), 4)
    0.3681
    """
    return (teacher_log_NC.exp() * (teacher_log_NC - student_log_NC)).sum(1)


def reverse_kl(student_log_NC: Tensor, teacher_log_NC: Tensor) -> Tensor:
    """KL(student || teacher): the same with the roles changed."""
    return forward_kl(teacher_log_NC, student_log_NC)


def jensen_shannon(student_log_NC: Tensor, teacher_log_NC: Tensor, *, share: float, normalize: bool = False) -> Tensor:
    """The sum b KL(teacher || m) + (1 - b) KL(student || m), with m = b teacher + (1 - b) student, b the share.

    The mixture is of probabilities, never of their logarithms. Without `normalize` the value goes to 0 at both ends of
    the share. With `normalize` it is divided by b (1 - b), and goes to KL(teacher || student) as b goes to 0 and to
    KL(student || teacher) as b goes to 1, where it is exactly these.
    """
    if normalize and share == 0:
        return forward_kl(student_log_NC, teacher_log_NC)
    if normalize and share == 1:
        return reverse_kl(student_log_NC, teacher_log_NC)
    if share in (0, 1):
        return torch.zeros_like(student_log_NC).sum(1)
    mixed_log = torch.logaddexp(teacher_log_NC + math.log(share), student_log_NC + math.log1p(-share))
    value = share * forward_kl(mixed_log, teacher_log_NC) + (1 - share) * forward_kl(mixed_log, student_log_NC)
    return value / (share * (1 - share)) if normalize else value


def total_variation(student_log_NC: Tensor, teacher_log_NC: Tensor) -> Tensor:
    """Half the sum of absolute differences of probabilities, between 0 and 1."""
    return (teacher_log_NC.exp() - student_log_NC.exp()).abs().sum(1) / 2


def skewed_kl(student_log_NC: Tensor, teacher_log_NC: Tensor, *, share: float) -> Tensor:
    """KL(teacher || b teacher + (1 - b) student), b the share; KL(teacher || student) at 0, nothing at 1.

    Never above -log b, whatever the student finds impossible. With student and teacher changed over it is the skewed
    reverse KL, KL(student || b student + (1 - b) teacher).
    """
    if share == 0:
        return forward_kl(student_log_NC, teacher_log_NC)
    if share == 1:
        return torch.zeros_like(student_log_NC).sum(1)
    mixed_log = torch.logaddexp(teacher_log_NC + math.log(share), student_log_NC + math.log1p(-share))
    return forward_kl(mixed_log, teacher_log_NC)


def renyi(student_log_NC: Tensor, teacher_log_NC: Tensor, *, order: float, normalize: bool = False) -> Tensor:
    """The Renyi divergence log(sum of t^a s^(1 - a)) / (a - 1), a the order; KL(teacher || student) at 1.

    Without `normalize` the value goes to 0 with the order. With `normalize` it is divided by the order, and goes to
    KL(student || teacher) as the order goes to 0, where it is exactly this.
    """
    if order == 1:
        return forward_kl(student_log_NC, teacher_log_NC)
    if order == 0:
        zero = torch.zeros_like(student_log_NC).sum(1)
        return reverse_kl(student_log_NC, teacher_log_NC) if normalize else zero
    value = torch.logsumexp(order * teacher_log_NC + (1 - order) * student_log_NC, dim=1) / (order - 1)
    return value / order if normalize else value


def hellinger(student_log_NC: Tensor, teacher_log_NC: Tensor) -> Tensor:
    """The squared Hellinger distance: half the sum of squared differences of square roots, between 0 and 1."""
    return ((teacher_log_NC / 2).exp() - (student_log_NC / 2).exp()).square().sum(1) / 2


def probability_cosine(student_log_NC: Tensor, teacher_log_NC: Tensor) -> Tensor:
    """1 - cosine of the angle between the two vectors of probabilities, between 0 and 1."""
    return 1 - F.cosine_similarity(student_log_NC.exp(), teacher_log_NC.exp(), dim=1)


def probability_correlation(student_log_NC: Tensor, teacher_log_NC: Tensor) -> Tensor:
    """1 - Pearson's correlation of the two vectors of probabilities, between 0 and 2; 1 where one of them is even."""
    return 1 - pearson(student_log_NC.exp(), teacher_log_NC.exp(), dim=1)
