"""Relational distance: the student keeps how far apart the teacher sees two examples.

Park et al., Relational knowledge distillation (RKD), CVPR 2019, arXiv:1904.05068, section 3.2.1.

Shapes: N examples, features of any shape, flattened to C; the widths of student and teacher may differ.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import centred_gram, paired_rows, root, squared_distances
from lessen.knowledge.axes.distances import Distance, HuberDistance


def relative_distances(rows_NC: Tensor) -> Tensor:
    """The Euclidean distance of each pair, in units of the mean of those that are not zero: shape (N, N).

    >>> relative_distances(torch.tensor([[0.0], [1.0], [3.0]]))
    tensor([[0.0000, 0.5000, 1.5000],
            [0.5000, 0.0000, 1.0000],
            [1.5000, 1.0000, 0.0000]])
    """
    distance_NN = root(squared_distances(centred_gram(rows_NC)))
    count = torch.count_nonzero(distance_NN)
    # All examples alike: all distances are zero, in any unit.
    unit = (distance_NN.sum() / count.clamp_min(1)).where(count > 0, distance_NN.new_ones(()))
    return distance_NN / unit


@settings
class RelationalDistance:
    """Match the distances between all pairs of examples; the two networks' features may differ in width.

    The loss of an example is the mean over its N pairs, including the pair with itself, so the mean over examples is
    the mean over the N x N matrix.

    Args:
        distance: How the distances from one example are compared with the teacher's.
    """

    distance: Distance = HuberDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="RKD, arXiv:1904.05068",
        says="The student's distances between examples, in units of their mean, are the teacher's.",
        costs="Nothing in the shipped model; a product of N x C matrices and N^2 numbers per step.",
        fails_when="The batch is small, or classes matter rather than geometry: published results for classification "
        "are below the plain student; it works well for embeddings.",
        differs="The mean over all N^2 pairs, as in the authors' code, where the paper sums; usual weight 25 there, "
        "1 in the paper. Features are not scaled to unit length first, which some code does.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = paired_rows(student, teacher, what="RelationalDistance")
        return self.distance(*map(relative_distances, sides)).to(student.dtype)
