"""A memory of all training examples as both networks last saw them: what contrastive objectives compare with.

Instance memory: Wu et al., Unsupervised feature learning via non-parametric instance discrimination, CVPR 2018,
arXiv:1805.01978; for two networks: Tian et al., Contrastive representation distillation, ICLR 2020, arXiv:1910.10699.

Shapes: N examples of a batch, M of the training split, D numbers for each, K negatives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lessen.core.data import TaskFacts
from lessen.core.errors import DataError, SettingError, ShapeError
from lessen.functional.pairs import full_precision, rows, unit_rows
from lessen.functional.shapes import mismatch
from lessen.knowledge.examples.contrasts import Scores

_MOST = 16384  # negatives, in the papers


def negatives_for(task: TaskFacts, negatives: int | None, *, what: str) -> int:
    """How many negatives an example gets: as asked, or what the papers use as far as the data goes.

    Raises:
        SettingError: they are more than a quarter of the examples.
        DataError: there are fewer than four examples.
    """
    most = task.examples // 4
    if most == 0:
        raise DataError(f"{what} needs 4 training examples or more to draw negatives from, and has {task.examples}.")
    if negatives is not None and negatives > most:
        raise SettingError(
            f"{what}: negatives: {negatives} are more than a quarter of the {task.examples} training examples; a "
            f"sample as large as the data cannot tell an example from the rest. Use {most} or fewer, or None."
        )
    return min(_MOST, most) if negatives is None else negatives


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


@dataclass(frozen=True)
class Drawn:
    """Which examples are compared in one step.

    Args:
        index: The examples of the batch, shape (N,).
        others: The K that they are compared with.
        counts: Whether such a one is no example of the same class, shape (N, K).
    """

    index: Tensor
    others: Tensor
    counts: Tensor


class Memory(nn.Module):
    """Unit vectors of every training example, as student and teacher last saw it, and the labels seen so far.

    It is stored in checkpoints. Several processes write all that they saw into each of their memories.

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

    def draw(self, index_N: Tensor, labels_N: Tensor | None) -> Drawn:
        """Examples to compare a batch with, none twice, from torch's global generator; in eval mode evenly spaced.

        They are the same for the whole batch, so that comparing is one product of matrices. Each is as likely as any
        other, and each example leaves out those of its own class.

        Raises:
            DataError: labels are needed and are not one class index per example.
        """
        labels_M, count = self.labels, len(self.labels)
        if self.by_label:
            if labels_N is None or labels_N.is_floating_point() or labels_N.shape != index_N.shape:
                came = None if labels_N is None else (tuple(labels_N.shape), str(labels_N.dtype))
                raise DataError(
                    f"Negatives of other classes need one class index per example, shape {tuple(index_N.shape)}, but "
                    f"the labels are {came}. Mixed labels have no single class: set by_label=False, or do not mix."
                )
            labels_M = labels_M.index_copy(0, index_N, labels_N.long())
        if self.training:
            others_K = torch.randperm(count, device=index_N.device)[: self.negatives]
        else:
            others_K = torch.arange(self.negatives, device=index_N.device) * count // self.negatives
        return Drawn(index_N, others_K, labels_M[index_N][:, None] != labels_M[others_K])

    def scores(self, student_ND: Tensor, teacher_ND: Tensor, drawn: Drawn) -> tuple[Scores, Scores]:
        """How alike each side is to what the memory of the other side has of the examples that were drawn."""
        return _compare(student_ND, self.teacher, drawn), _compare(teacher_ND, self.student, drawn)

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


def _compare(anchors_ND: Tensor, bank_MD: Tensor, drawn: Drawn) -> Scores:
    with full_precision(anchors_ND):
        positive_N = (anchors_ND * bank_MD[drawn.index]).sum(1)
    return Scores(positive=positive_N, anchors=anchors_ND, bank=bank_MD, others=drawn.others, counts=drawn.counts)


def of_all_processes(part_N: Tensor) -> Tensor:
    """The parts of all processes, one after the other; the part itself where there is one."""
    if not (distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1):
        return part_N
    parts = [torch.empty_like(part_N) for _ in range(distributed.get_world_size())]
    distributed.all_gather(parts, part_N.contiguous())
    return torch.cat(parts)


def split_inputs(teacher: Any, *, by_label: bool) -> tuple[Any, Tensor | None, Tensor]:
    """The teacher's taps, the labels or None, and the indices of the examples."""
    if by_label:
        taps, labels_N, index_N = teacher
        return taps, labels_N, index_N
    taps, index_N = teacher
    return taps, None, index_N
