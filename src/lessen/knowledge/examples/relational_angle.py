"""Relational angle: the student keeps the shape of the triangles that the teacher's examples make.

Park et al., Relational knowledge distillation (RKD), CVPR 2019, arXiv:1904.05068, section 3.2.2.

Shapes: N examples, features of any shape, flattened to C; the widths of student and teacher may differ.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import centred_gram, full_precision, inverse_root, paired_rows, squared_distances
from lessen.knowledge.axes.distances import Distance, HuberDistance


def angle_cosines(rows_NC: Tensor) -> Tensor:
    """The cosine of the angle at i between the ways to j and to k, at [i, j, k]: shape (N, N, N).

    0 where one of the ways has no length.

    >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    >>> round(float(angle_cosines(corner)[0, 1, 2].abs()), 4), round(float(angle_cosines(corner)[1, 0, 2]), 4)
    (0.0, 0.4472)
    """
    gram_NN = centred_gram(rows_NC)
    scale_NN = inverse_root(squared_distances(gram_NN))
    # (x_j - x_i) (x_k - x_i) = g_jk - g_ij - g_ik + g_ii, and 1 / length on either side: for each i, that is the
    # Gram matrix scaled, plus a matrix of rank two. The (N, N, C) differences are never made.
    shifted_NN = scale_NN * (gram_NN - gram_NN.diagonal()[:, None])
    left_NN2 = torch.stack([-shifted_NN, -scale_NN], dim=2)
    right_N2N = torch.stack([scale_NN, scale_NN * gram_NN], dim=1)
    scaled_NNN = scale_NN[:, :, None] * scale_NN[:, None, :] * gram_NN
    with full_precision(gram_NN):
        return torch.baddbmm(scaled_NNN, left_NN2, right_N2N)


@settings
class RelationalAngle:
    """Match the angles of all triples of examples; the two networks' features may differ in width.

    The loss of an example is the mean over the N x N triples with their vertex at it; triples without an angle count as
    0. So the mean over examples is the mean over all N^3 triples.

    Args:
        distance: How the cosines at one example are compared with the teacher's.
    """

    distance: Distance = HuberDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="RKD, arXiv:1904.05068",
        says="The cosine of the angle that three examples make is the same for student and teacher.",
        costs="Nothing in the shipped model; tensors of N^3 numbers per step, 8 MB each at N = 128, 0.5 GB at 512.",
        fails_when="The batch is small, or classes matter rather than geometry. Two examples almost coincide: their "
        "angle is then rounding error.",
        differs="The mean over all N^3 triples, as in the authors' code, where the paper sums; usual weight 50 there, "
        "2 in the paper.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = paired_rows(student, teacher, what="RelationalAngle", least=3)
        return self.distance(*map(angle_cosines, sides)).to(student.dtype)
