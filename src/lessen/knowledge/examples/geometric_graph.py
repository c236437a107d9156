"""Geometric graph: the batch as a graph of similarities, the same for student and teacher.

Lassance et al., Deep geometric knowledge distillation with graphs (GKD), ICASSP 2020, arXiv:1911.03080, section 3.

Shapes: N examples, features of any shape, flattened to C; the widths of student and teacher may differ.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.pairs import cosines, full_precision, inverse_root, paired_rows
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def normalised_graph(rows_NC: Tensor, *, power: int = 1) -> Tensor:
    """D^-1/2 A D^-1/2 to the power, A the cosines of all pairs with a zero diagonal, D its degrees: shape (N, N).

    >>> normalised_graph(torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 2.0]]))
    tensor([[0.0000, 0.4551, 0.4551],
            [0.4551, 0.0000, 0.5858],
            [0.4551, 0.5858, 0.0000]])
    """
    cosine_NN = cosines(rows_NC)
    adjacency_NN = cosine_NN - cosine_NN.diagonal().diag()
    scale_N = inverse_root(adjacency_NN.abs().sum(1))
    graph_NN = scale_N[:, None] * adjacency_NN * scale_N
    with full_precision(graph_NN):
        walked_NN: Tensor = torch.linalg.matrix_power(graph_NN, power)
    return walked_NN


@settings
class GeometricGraph:
    """Match the graph of similarities between the examples of a batch, or a power of it (walks of several steps).

    The loss of an example is the mean over the N entries of its row, so the mean over examples is the mean over the N x
    N matrix. Use one edge for each layer.

    Args:
        power: Number of steps on the graph; 1 compares the edges themselves.
        distance: How a row is compared with the teacher's.
    """

    power: Annotated[int, Field(ge=1)] = 1
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="GKD, arXiv:1911.03080",
        says="The student's normalised graph of cosines between examples is the teacher's.",
        costs="Nothing in the shipped model; a product of N x C matrices per step, and log2(power) of N x N.",
        fails_when="All features point in similar directions, as after a rectifier and an average: every weight of "
        "the graph is then about 1 / N.",
        differs="The power is applied; the released code ignores it. Degrees are sums of absolute weights. For "
        "features after a ReLU this is the same; it is also defined where cosines are negative.",
    )
    relational: ClassVar[bool] = True

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        sides = paired_rows(student, teacher, what="GeometricGraph")
        return self.distance(*(normalised_graph(side, power=self.power) for side in sides)).to(student.dtype)
