"""Similarity-preserving: examples that activate the teacher alike activate the student alike.

Tung & Mori, Similarity-preserving knowledge distillation (SP), ICCV 2019, arXiv:1907.09682, section 3.

Shapes: N examples, features of any shape, flattened to C; the widths of student and teacher may differ.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import gram, paired_rows, unit_rows
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def similarities(rows_NC: Tensor) -> Tensor:
    """The inner products of all pairs, each row of them scaled to unit length: shape (N, N).

    >>> import torch
    >>> similarities(torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 5.0]]))
    tensor([[0.7071, 0.7071, 0.0000],
            [0.7071, 0.7071, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    return unit_rows(gram(rows_NC))


@settings
class SimilarityPreserving:
    """Match which examples are alike; the two networks' features may differ in width.

    The loss of an example is the mean over the N entries of its row, so the mean over examples is the paper's squared
    Frobenius norm divided by N^2.

    Args:
        distance: How a row is compared with the teacher's.
    """

    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="SP, arXiv:1907.09682",
        says="The student's row-normalised Gram matrix of the batch is the teacher's.",
        costs="Nothing in the shipped model; a product of N x C matrices per step.",
        fails_when="Batches are small or of one class. Entries of unit rows are about 1 / sqrt(N): the loss shrinks "
        "with N^2, so a weight (3000 is usual) holds for one batch size only.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = paired_rows(student, teacher, what="SimilarityPreserving")
        return self.distance(*map(similarities, sides)).to(student.dtype)
