"""Multi-head graph distillation: how a batch of examples attends to itself from one layer to the next.

Lee & Song, Graph-based knowledge distillation by multi-head attention network, BMVC 2019, arXiv:1907.02226, section 3.

Shapes: N examples, C and D channels of a layer and of the next, H heads, E features of a head.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Card, TaskFacts, settings
from lessen.functional.channels import by_channel
from lessen.functional.distances import cosine
from lessen.functional.pairs import full_precision
from lessen.functional.singular import right_singular_vectors
from lessen.knowledge.axes.divergences import Divergence, ReverseKL
from lessen.knowledge.features.prepared import Prepared
from lessen.knowledge.layers.several import channels_of, check_shapes, several
from lessen.knowledge.layers.singular_vectors import compressed


class GraphEstimator(nn.Module):
    """Attention from the examples at one layer to those at the next, trained to predict the next from the first.

    Args:
        first: Channels of the first layer.
        second: Channels of the next.
        heads: How many graphs.
        drop: The share of graphs that an example does without in training.
    """

    def __init__(self, first: int, second: int, *, heads: int, drop: float) -> None:
        super().__init__()
        width = (first + second) // 2
        self.heads, self.drop = heads, drop
        self.key = nn.Sequential(nn.Linear(second, width * heads, bias=False), nn.BatchNorm1d(width * heads))
        self.query = nn.Sequential(nn.Linear(first, width * heads, bias=False), nn.BatchNorm1d(width * heads))
        self.value = nn.Sequential(nn.Linear(first, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.predict = nn.Linear(width * heads, second)

    def graphs(self, first_NC: Tensor, second_ND: Tensor) -> Tensor:
        """How much each example at the next layer (rows) has to do with each at the first: (H, N, N), no softmax."""
        key, query = (
            made.unflatten(1, (self.heads, -1)).transpose(0, 1) for made in (self.key(second_ND), self.query(first_NC))
        )
        graphs_HNN: Tensor = key @ query.transpose(1, 2)
        return graphs_HNN

    def forward(self, first_NC: Tensor, second_ND: Tensor) -> Tensor:
        """1 - cosine of the angle between the next layer's vectors and what is predicted of them, shape (N,)."""
        weights_HNN = self.graphs(first_NC, second_ND).softmax(2)
        kept_HN1 = F.dropout(torch.ones_like(weights_HNN[:, :, :1]), self.drop, self.training)
        mixed_HNE = (weights_HNN * kept_HN1) @ self.value(first_NC)
        return cosine(self.predict(mixed_HNE.transpose(0, 1).flatten(1)), second_ND)


def graph_divergence(student_HNN: Tensor, teacher_HNN: Tensor, *, divergence: Divergence) -> Tensor:
    """The divergence between the rows of two sets of graphs, softened by tanh, summed over heads: shape (N,)."""
    # The divergence is taken along axis 1: examples that are looked at, for each row and head.
    student_log, teacher_log = (graphs.tanh().permute(1, 2, 0).log_softmax(1) for graphs in (student_HNN, teacher_HNN))
    return divergence(student_log, teacher_log).sum(1)


@settings
class MultiHeadGraph:
    """Match graphs of the batch between consecutive taps (two or more); the heads that build the graphs learn first.

    The map at each tap is reduced to its leading singular vector. In the first part of the stage only the heads learn:
    they predict the teacher's vector at a tap from those at the tap before, and the student gets no gradient from this
    edge. Then the heads are frozen, and build the graphs of both networks. Each tap needs as many channels in the
    student as in the teacher.

    Args:
        heads: Number of graphs between two taps.
        prepare: The share of the stage in which the heads learn.
        drop: The share of heads that are dropped for an example while they learn.
        spare: How many additional singular vectors of the student may be matched; see `SingularVectors`.
        divergence: How two rows of a graph are compared; the paper puts the student first, `ReverseKL()`.
    """

    heads: Annotated[int, Field(ge=1)] = 8
    prepare: Annotated[float, Field(ge=0, lt=1)] = 0.2
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.5
    spare: Annotated[int, Field(ge=0)] = 3
    divergence: Divergence = ReverseKL()

    relational: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="knowledge / between layers",
        paper="arXiv:1907.02226 (MHGD)",
        says="From tap to tap, each example of the student attends to the batch as the teacher's does, by the sum over "
        "heads of KL(student's row || teacher's row).",
        costs="A few linear layers and N x N values per head while training, nothing in the shipped model; at each tap "
        "an eigendecomposition for every example, which is slow on accelerators.",
        fails_when="The heads have not learned: the graphs are then noise. Batches are small, or their size varies, "
        "and the graphs vary with it. The student learns nothing from this edge in the first part of the stage.",
        differs="The heads learn in the first part of the same stage (`prepare`), by the target's optimizer and on "
        "the batches the student sees; the paper trains them beforehand. Rows are averaged over examples, "
        "where the paper sums them. If channels differ, use a bridge; the authors' code maps the student's by "
        "a layer of its own.",
    )

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        del task
        check_shapes(student_shape, teacher_shape, what="MultiHeadGraph", least=2)
        return MultiHeadGraphModule(self, [channels_of(shape) for shape in teacher_shape])


class MultiHeadGraphModule(Prepared):
    """`MultiHeadGraph` for given channels.

    Args:
        settings: Of the objective.
        channels: Of each tap.
    """

    relational: ClassVar[bool] = True
    card: ClassVar[Card] = MultiHeadGraph.card
    estimator: nn.ModuleList

    def __init__(self, settings: MultiHeadGraph, channels: list[int]) -> None:
        made = [GraphEstimator(*two, heads=settings.heads, drop=settings.drop) for two in pairwise(channels)]
        super().__init__(nn.ModuleList(made), prepare=settings.prepare)
        self.settings = settings
        self.channels = channels

    def preparation(self, teacher: Any) -> Tensor:
        """The heads' error in predicting the teacher's vectors, summed over pairs of taps."""
        with full_precision(teacher[0]):
            vectors = [right_singular_vectors(by_channel(tap).transpose(1, 2), 1)[0].squeeze(2) for tap in teacher]
            losses = [heads(*two) for heads, two in zip(self.estimator, pairwise(vectors), strict=True)]
        return torch.stack(losses).sum(0).to(teacher[0].dtype)

    def comparison(self, student: Any, teacher: Any) -> Tensor:
        """How the graphs differ, summed over pairs of taps."""
        taps = several(student, teacher, what="MultiHeadGraph", least=2)
        vectors = [compressed(*pair, vectors=1, spare=self.settings.spare)[:2] for pair in zip(*taps, strict=True)]
        losses = []
        for module, (before, now) in zip(self.estimator, pairwise(vectors), strict=True):
            heads = cast(GraphEstimator, module)
            with full_precision(student[0]):
                graphs = [heads.graphs(b.squeeze(2), n.squeeze(2)) for b, n in zip(before, now, strict=True)]
            losses.append(graph_divergence(*graphs, divergence=self.settings.divergence))
        return torch.stack(losses).sum(0).to(student[0].dtype)
