"""Probabilistic transfer: who would be whose neighbour, as a distribution over the batch.

Passalis & Tefas, Learning deep representations with probabilistic knowledge transfer (PKT), ECCV 2018,
arXiv:1803.10837, section 3.

Shapes: N examples, features of any shape, flattened to C; the widths of student and teacher may differ.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import cosines, off_diagonal, paired_rows
from lessen.knowledge.axes.divergences import Divergence, ForwardKL

_LEAST = 1e-7  # of the kernel, so that opposite examples still have a logarithm


def neighbour_log_probabilities(rows_NC: Tensor, *, with_itself: bool = True) -> Tensor:
    """The logarithm of each example's distribution over the others, proportional to (1 + cosine) / 2.

    Shape (N, N), or (N, N - 1) without the example itself.

    >>> import torch
    >>> neighbour_log_probabilities(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])).exp()[0]
    tensor([0.4000, 0.2000, 0.4000])
    """
    kernel_NN = (1 + cosines(rows_NC)) / 2
    if not with_itself:
        kernel_NN = off_diagonal(kernel_NN)
    kernel_NN = kernel_NN.clamp_min(_LEAST)
    return kernel_NN.log() - kernel_NN.sum(1, keepdim=True).log()


@settings
class ProbabilisticTransfer:
    """Match each example's distribution over its neighbours; the two networks' features may differ in width.

    The loss of an example is the divergence of its row, summed over the batch, so the mean over examples is the paper's
    sum divided by N.

    Args:
        with_itself: Whether an example is its own neighbour. The released code includes it; the paper's formula does
            not.
        divergence: How two distributions are compared.
    """

    with_itself: bool = True
    divergence: Divergence = ForwardKL()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="PKT, arXiv:1803.10837",
        says="KL from the teacher's to the student's conditional probabilities of neighbours, by a cosine kernel.",
        costs="Nothing in the shipped model; a product of N x C matrices per step.",
        fails_when="Batches are large: each probability is about 1 / N and the divergence is small; large weights are "
        "usual (30000, of a mean over N^2).",
        differs="Summed over a row, as a divergence is; the released code takes the mean over N^2, which is N times "
        "smaller. The kernel is kept above 1e-7 before it is normalised, so that both sides stay "
        "distributions.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = paired_rows(student, teacher, what="ProbabilisticTransfer")
        logs = (neighbour_log_probabilities(side, with_itself=self.with_itself) for side in sides)
        return self.divergence(*logs).to(student.dtype)
