"""Holistic knowledge: an example's features together with those of its neighbours, learned by contrast.

Zhou et al., Distilling holistic knowledge with graph neural networks (HKD), ICCV 2021, arXiv:2108.05507, section 3.
Convolutions on the graph: Du et al., Topology adaptive graph convolutional networks, arXiv:1710.10370.

Shapes: N examples of the batch, M of the training split, features of any shape, flattened, embedded in D numbers; K
negatives.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, ObjectiveInput, settings
from lessen.core.data import TaskFacts
from lessen.core.errors import ShapeError
from lessen.functional.pairs import cosines, full_precision, inverse_root, rows, unit_rows
from lessen.knowledge.examples.contrasts import Scores, information_contrast
from lessen.knowledge.examples.memory import Embedding, Memory, embedded, negatives_for, split_inputs
from lessen.surgery.values import shapes_of


@torch.no_grad()
def neighbour_graph(logits_NC: Tensor, *, neighbours: int) -> Tensor:
    """D^-1/2 A D^-1/2, A joining each example with those whose class probabilities are most alike: shape (N, N).

    Two examples are connected if one is among the nearest of the other; each is its own nearest. It has no gradient.

    >>> neighbour_graph(torch.tensor([[9.0, 0.0], [0.0, 9.0], [9.0, 1.0]]), neighbours=2)
    tensor([[0.5000, 0.0000, 0.4082],
            [0.0000, 0.5000, 0.4082],
            [0.4082, 0.4082, 0.3333]])
    """
    alike_NN = cosines(rows(logits_NC).softmax(1)).fill_diagonal_(2.0)
    nearest = alike_NN.topk(min(neighbours, len(alike_NN)), dim=1).indices
    adjacency_NN = torch.zeros_like(alike_NN).scatter(1, nearest, 1.0)
    adjacency_NN = torch.maximum(adjacency_NN, adjacency_NN.T)
    scale_N = inverse_root(adjacency_NN.sum(1))
    return scale_N[:, None] * adjacency_NN * scale_N


class GraphEmbedding(nn.Module):
    """A topology adaptive convolution to unit length: (N, D) and a graph (N, N) to (N, D).

    Args:
        width: D.
        hops: How many steps on the graph it sees.
    """

    def __init__(self, width: int, hops: int) -> None:
        super().__init__()
        self.hops = hops
        self.linear = nn.Linear(width * (hops + 1), width)

    def forward(self, embedded_ND: Tensor, graph_NN: Tensor) -> Tensor:
        with full_precision(embedded_ND):
            seen = [embedded_ND]
            for _ in range(self.hops):
                seen.append(graph_NN.to(embedded_ND.dtype) @ seen[-1])
            return unit_rows(self.linear(torch.cat(seen, dim=1)))


class HolisticKnowledgeLoss(nn.Module):
    """The objective with its embeddings, its graph networks and its memory; see `HolisticKnowledge`."""

    def __init__(self, made_by: HolisticKnowledge, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> None:
        super().__init__()
        self.settings = made_by
        self.card, self.relational, self.needs = made_by.card, made_by.relational, made_by.needs
        what = type(made_by).__name__
        width = made_by.width
        self.student = Embedding(_two_taps(student_shape, what)[0], width, what=what)
        self.teacher = Embedding(_two_taps(teacher_shape, what)[0], width, what=what)
        self.student_graph = GraphEmbedding(width, made_by.hops)
        self.teacher_graph = GraphEmbedding(width, made_by.hops)
        count = negatives_for(task, made_by.negatives, what=what)
        self.memory = Memory(task.examples, width, negatives=count, by_label=made_by.by_label)

    def forward(self, student: Any, teacher: Any) -> Tensor:
        taps, labels_N, index_N = split_inputs(teacher, by_label=self.settings.by_label)
        features, logits = _fitting(student, taps)
        student_ND, teacher_ND = embedded(*features, self.student, self.teacher)
        drawn = self.memory.draw(index_N, labels_N)
        raw = self._contrast(*self.memory.scores(student_ND, teacher_ND, drawn))
        graphs = [neighbour_graph(each, neighbours=self.settings.neighbours) for each in logits]
        student_graph_ND = self.student_graph(student_ND, graphs[0])
        teacher_graph_ND = self.teacher_graph(teacher_ND, graphs[1])
        by_student, by_teacher = self.memory.scores(student_graph_ND, teacher_graph_ND, drawn)
        in_graph = self._contrast(
            self._with_positive(by_student, student_graph_ND, teacher_graph_ND, self.memory.teacher[index_N]),
            self._with_positive(by_teacher, teacher_graph_ND, student_graph_ND, self.memory.student[index_N]),
        )
        self.memory.remember(index_N, labels_N, student_ND, teacher_ND, momentum=self.settings.momentum)
        return (raw + in_graph).to(features[0].dtype)

    def _with_positive(self, scores: Scores, anchor_ND: Tensor, other_ND: Tensor, kept_ND: Tensor) -> Scores:
        """The scores, with the other side's embedding in the graph mixed into the positive."""
        share = self.settings.graph_share
        positive_ND = unit_rows(share * other_ND + (1 - share) * kept_ND)
        return replace(scores, positive=(anchor_ND * positive_ND).sum(1))

    def _contrast(self, by_student: Scores, by_teacher: Scores) -> Tensor:
        temperature = self.settings.temperature
        return information_contrast(by_student.over(temperature)) + information_contrast(by_teacher.over(temperature))


@settings
class HolisticKnowledge:
    """Contrast each example, alone and averaged with its neighbours, with a memory of the other network's embeddings.

    Needs two taps on each side, the features and the logits, as `taps("pool", "")`. Both features are embedded. The
    logits of each network define a graph of the batch. The embeddings are averaged over this graph and mapped by one
    more layer. The loss is the sum of four contrasts: student against teacher and the reverse, without and with the
    graph.

    Args:
        width: The width of the embedding.
        neighbours: Number of neighbours of each example in the graph, itself included.
        hops: Number of steps on the graph over which embeddings are averaged.
        temperature: Divides the inner products of embeddings.
        negatives: Number of other examples that each is compared with, at most a quarter of all examples. None: 16,384,
            or a quarter of all if that is less.
        momentum: The share of an example's stored vector that is kept when the example is seen again.
        graph_share: The share of the embedding in the graph in the positive of the contrasts with the graph; the
            rest is what the memory has of the example.
        by_label: Whether to exclude examples of the same class from the negatives. Needs labels.
    """

    width: Annotated[int, Field(ge=1)] = 128
    neighbours: Annotated[int, Field(ge=1)] = 8
    hops: Annotated[int, Field(ge=1)] = 1
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    negatives: Annotated[int, Field(ge=1)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    graph_share: Annotated[float, Field(ge=0, le=1)] = 0.25
    by_label: bool = True

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="HKD, arXiv:2108.05507",
        says="A bound on the mutual information of the two networks' features, of an example and of its neighbourhood.",
        costs="Nothing in the shipped model; while training four linear layers, a memory of 2 M D numbers, and four "
        "products of N x D and D x K per step.",
        fails_when="The batch offers few neighbours (less than a few times `neighbours`), or each example is seen few "
        "times: its memory is then still random. The loss is not zero when student and teacher are equal.",
        differs="Negatives come from the other network's memory, as in the paper's formula; released code takes them "
        "from its own. The graph is undirected. The positive in the graph carries gradient to both networks. "
        "Negatives are drawn once for a batch, a quarter of the examples at most; those of an example's own "
        "class are left out and replaced by the others.",
    )
    relational: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What it needs in addition to the teacher's features and logits."""
        return (ObjectiveInput.LABELS, ObjectiveInput.INDEX) if self.by_label else (ObjectiveInput.INDEX,)

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        return HolisticKnowledgeLoss(self, student_shape, teacher_shape, task)


def _two_taps(shape: Any, what: str) -> Any:
    if len(shape) != 2 or not all(isinstance(part, tuple) for part in shape):
        raise ShapeError(
            f"{what} needs two taps on each side, features and logits, but one side is {shape}. Use taps('...', '')."
        )
    return shape


def _fitting(student: Any, teacher: Any) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Both features, then both logits."""
    sides = shapes_of(student), shapes_of(teacher)
    two = all(len(side) == 2 and isinstance(side[0], tuple) and len(side[1]) > 1 for side in sides)
    if not two or len({shape[0] for side in sides for shape in side}) > 1:
        raise ShapeError(
            "HolisticKnowledge needs two taps on each side, features (N, ...) and logits (N, C) of the same examples, "
            f"but the student has {sides[0]} and the teacher {sides[1]}. Use taps('...', '')."
        )
    return (student[0], teacher[0]), (student[1], teacher[1])
