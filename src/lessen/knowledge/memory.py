"""A memory of all training examples as both networks last saw them: what contrastive objectives compare with.

Instance memory: Wu et al., Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018,
arXiv:1805.01978; for two networks: Tian et al., Contrastive representation distillation, ICLR 2020, arXiv:1910.10699.

Shapes: N examples of a batch, M of the training split, D numbers for each, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from lessen.core.data import Task
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.functional.pairs import full_precision, rows, unit_rows
from lessen.functional.shapes import mismatch

_MOST = 16384  # negatives, in the papers


def negatives_for(task: Task, negatives: int | None, *, what: str) -> int:
    """How many negatives an example gets: as asked, or what the papers use as far as the data goes.

    Raises:
        SettingError: they are more than a quarter of the examples.
        DataError: there are fewer than four examples.
    """
    most = task.examples // 4
    if most == 0:
        raise DataError(f"{what} needs 4 training examples or more to find negatives among, and has {task.examples}.")
    if negatives is not None and negatives > most:
        raise SettingError(
            f"{what}: negatives: {negatives} are more than a quarter of the {task.examples} training examples. Such a "
            f"sample is most of the data, and its share is what the loss estimates with. Use {most} or fewer, or None."
        )
    return min(_MOST, most) if negatives is None else negatives


def spread_negatives(index_N: Tensor, labels_M: Tensor, count: int, *, draw: bool) -> Tensor:
    """Numbers of examples of other classes, `count` for each of the batch: shape (N, K).

    The examples of other classes, in the order of their classes, are cut into K equal pieces, and one is taken of
    each: each example of another class is as likely as any other, none is likely twice, and no class is missed.

    Args:
        index_N: The examples of the batch.
        labels_M: The class of every example; those with one number exclude each other.
        count: K.
        draw: Take one at random from each piece, from torch's global generator; otherwise the middle one.
    """
    ordered_M, order_M = labels_M.sort(stable=True)
    own_N = labels_M[index_N]
    after_N = torch.searchsorted(ordered_M, own_N, right=True)
    others_N = len(labels_M) - (after_N - torch.searchsorted(ordered_M, own_N))
    device = index_N.device
    inside = torch.rand(len(index_N), count, device=device) if draw else torch.full((1, 1), 0.5, device=device)
    place_NK = (torch.arange(count, device=device) + inside) / count * others_N[:, None]
    step_NK = place_NK.long().minimum(others_N[:, None] - 1).clamp_min(0)
    # Counted from the end of the own class, round the end of the list, the others are one piece.
    return order_M[(after_N[:, None] + step_NK) % len(labels_M)]


def scores(anchors_ND: Tensor, bank_MD: Tensor, chosen_NK: Tensor) -> Tensor:
    """The inner product of each anchor with the rows of the bank that were chosen for it: shape (N, K).

    By one product, whichever is smaller: all anchors with the whole bank, then the chosen entries of it, or the
    chosen rows first, which are (N, K, D).
    """
    with full_precision(anchors_ND):
        if len(bank_MD) <= 32 * chosen_NK.shape[1]:
            return (anchors_ND @ bank_MD.T).gather(1, chosen_NK)
        return torch.bmm(bank_MD[chosen_NK], anchors_ND.unsqueeze(2)).squeeze(2)


class Embedding(nn.Module):
    """Features of one shape, by a linear layer to unit length: (N, ...) to (N, D), in at least 32 bits.

    Args:
        shape: Of the features, examples along axis 0.
        width: D.
        what: The objective, for errors.
    """

    def __init__(self, shape: Sequence[int], width: int, *, what: str) -> None:
        super().__init__()
        if len(shape) < 2 or not all(isinstance(size, int) for size in shape):
            raise ShapeError(f"{what} needs features (N, ...) to embed, but one side has {tuple(shape)}.")
        self.what = what
        self.shape = tuple(shape[1:])
        self.linear = nn.Linear(math.prod(self.shape), width)

    def forward(self, features: Tensor) -> Tensor:
        with full_precision(features):
            return unit_rows(self.linear(rows(features).to(self.linear.weight.dtype)))


def embedded(student: Tensor, teacher: Tensor, by_student: Embedding, by_teacher: Embedding) -> tuple[Tensor, Tensor]:
    """Both sides embedded: twice (N, D).

    Raises:
        ShapeError: they are not of the shapes that the embeddings were built for, or not of the same N.
    """
    shapes = tuple(student.shape[1:]), tuple(teacher.shape[1:])
    if len(student) != len(teacher) or shapes != (by_student.shape, by_teacher.shape):
        built_for = [f"({', '.join(('N', *map(str, each.shape)))})" for each in (by_student, by_teacher)]
        raise mismatch(
            student,
            teacher,
            what=by_student.what,
            expected=f"features of the same N examples, {built_for[0]} and {built_for[1]} as it was built for",
        )
    return by_student(student), by_teacher(teacher)


class Memory(nn.Module):
    """Unit vectors of every training example, as student and teacher last saw it, and the labels seen so far.

    It stands in checkpoints. Several processes write all that they saw into each of their memories.

    Args:
        examples: M.
        width: D.
        negatives: K.
        by_label: Whether examples of one class are no negatives of each other; it is known of those that were seen.
    """

    student: Tensor
    teacher: Tensor
    labels: Tensor

    def __init__(self, examples: int, width: int, *, negatives: int, by_label: bool) -> None:
        super().__init__()
        self.negatives, self.by_label = negatives, by_label
        self.register_buffer("student", unit_rows(torch.randn(examples, width)))
        self.register_buffer("teacher", unit_rows(torch.randn(examples, width)))
        # Without labels each example is a class of its own; with them, those not yet seen are a class of none.
        self.register_buffer("labels", torch.full((examples,), -1) if by_label else torch.arange(examples))

    def chosen(self, index_N: Tensor, labels_N: Tensor | None) -> Tensor:
        """The example itself, then its negatives: shape (N, 1 + K). In eval mode nothing is drawn.

        Raises:
            DataError: labels are needed and are not one class number an example.
        """
        labels_M = self.labels
        if self.by_label:
            if labels_N is None or labels_N.is_floating_point() or labels_N.shape != index_N.shape:
                came = None if labels_N is None else (tuple(labels_N.shape), str(labels_N.dtype))
                raise DataError(
                    f"Negatives of other classes need one class number an example, shape {tuple(index_N.shape)}, but "
                    f"the labels are {came}. Mixed labels have no single class: set by_label=False, or do not mix."
                )
            labels_M = labels_M.index_copy(0, index_N, labels_N.long())
        negatives_NK = spread_negatives(index_N, labels_M, self.negatives, draw=self.training)
        return torch.cat([index_N[:, None], negatives_NK], dim=1)

    def scores(self, student_ND: Tensor, teacher_ND: Tensor, chosen_NK: Tensor) -> tuple[Tensor, Tensor]:
        """How alike each side is to what the other side's memory has of the chosen: twice (N, K)."""
        teacher, student = self.teacher, self.student
        if self.training:  # they are written to before the backward pass reads them
            teacher, student = teacher.clone(), student.clone()
        return scores(student_ND, teacher, chosen_NK), scores(teacher_ND, student, chosen_NK)

    @torch.no_grad()
    def remember(
        self, index_N: Tensor, labels_N: Tensor | None, student_ND: Tensor, teacher_ND: Tensor, *, momentum: float
    ) -> None:
        """Move the vectors of these examples towards new ones, and scale them to unit length; in train mode only."""
        if not self.training:
            return
        index_N = of_all_processes(index_N)
        for bank_MD, new_ND in ((self.student, student_ND), (self.teacher, teacher_ND)):
            moved_ND = momentum * bank_MD[index_N] + (1 - momentum) * of_all_processes(new_ND.detach())
            bank_MD.index_copy_(0, index_N, unit_rows(moved_ND))
        if self.by_label and labels_N is not None:
            self.labels.index_copy_(0, index_N, of_all_processes(labels_N.long()))


def of_all_processes(part_N: Tensor) -> Tensor:
    """The parts of all processes, one after the other; the part itself where there is one."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return part_N
    parts = [torch.empty_like(part_N) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, part_N.contiguous())
    return torch.cat(parts)


def beside_of(teacher: Any, *, by_label: bool) -> tuple[Any, Tensor | None, Tensor]:
    """The teacher's taps, the labels or None, and the numbers of the examples."""
    if by_label:
        taps, labels_N, index_N = teacher
        return taps, labels_N, index_N
    taps, index_N = teacher
    return taps, None, index_N


def noise_contrast(scores_NK: Tensor, log_constant: Tensor) -> Tensor:
    """Noise-contrastive estimation with K negatives behind the positive: one loss an example, shape (N,).

    h = e^score / (e^score + K constant) is how likely a pair is the true one; the loss is -log h of the positive, and
    the sum of -log(1 - h) of the negatives.
    """
    negatives = scores_NK.shape[1] - 1
    odds_NK = scores_NK - log_constant - math.log(negatives)
    return F.softplus(-odds_NK[:, 0]) + F.softplus(odds_NK[:, 1:]).sum(1)


def information_contrast(scores_NK: Tensor) -> Tensor:
    """InfoNCE: minus the log-probability of the positive, which stands first, among all: shape (N,), in nat."""
    return scores_NK.logsumexp(1) - scores_NK[:, 0]
