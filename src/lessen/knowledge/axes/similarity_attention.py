"""Attention over layers by what examples have in common: layers correspond where they find the same examples alike.

Chen et al., Cross-layer distillation with semantic calibration, AAAI 2021, arXiv:2012.03236, section 3.3. Known as
SemCKD, together with a hint between each pair of layers: `OverLayers(objective=Hint(), pairing=SimilarityAttention())`.

Shapes: N examples, S taps of the student, T taps of the teacher, Q points of a profile, D features of a query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Card, settings
from lessen.functional.shapes import wide
from lessen.knowledge.axes.pairings import Pairs, Shapes


def similarity_profile(features: Tensor, points: int) -> Tensor:
    """How similar each example is to all of the batch: evenly spaced quantiles of its cosines, shape (N, Q).

    >>> similarity_profile(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 3)
    tensor([[0.0000, 0.5000, 1.0000],
            [0.0000, 0.5000, 1.0000]])
    """
    rows_ND = F.normalize(wide(features).flatten(1), dim=1)
    cosine_NN = wide(rows_ND @ rows_ND.T)
    return torch.quantile(cosine_NN, torch.linspace(0, 1, points).to(cosine_NN), dim=1).T


@settings
class SimilarityAttention:
    """Every layer of the student attends to all of the teacher: learned queries and keys from similarities of examples.

    The weights of an example are softmax_t(query_s . key_t) / S, queries and keys of length 1 from two linear maps of
    its similarity profile.

    Args:
        points: Q, the length of a similarity profile.
        width: D, the features of queries and keys.
    """

    points: Annotated[int, Field(ge=2)] = 16
    width: Annotated[int, Field(ge=1)] = 32

    card: ClassVar[Card] = Card(
        row="knowledge / pairings",
        paper="SemCKD, arXiv:2012.03236",
        says="Learned weights choose which teacher layers a student layer learns from; they read the similarities of "
        "examples.",
        costs="S x T comparisons per step, a bridge for each that differs in shape, and an N x N product per layer.",
        fails_when="Some teacher layer is easy to match (all but constant): attention finds it, and nothing is taught.",
        differs="The paper uses the row of similarities in its given order, so its weights depend on the batch size "
        "and on an example's position in the batch; here the row is sorted and read at fixed quantiles. Similarities "
        "are cosines; the paper uses inner products.",
    )
    relational: ClassVar[bool] = True

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        return tuple((one, other) for one in range(students) for other in range(teachers))

    def weigher(self, student_shapes: Shapes, teacher_shapes: Shapes, /) -> nn.Module:
        return Calibration(len(student_shapes), len(teacher_shapes), self.points, self.width)


class Calibration(nn.Module):
    """The weight of each pair of layers for each example: shape (N, S * T).

    Args:
        students: S.
        teachers: T.
        points: Q.
        width: D.
    """

    def __init__(self, students: int, teachers: int, points: int, width: int) -> None:
        super().__init__()
        self.points = points
        self.queries = nn.ModuleList(_embedding(points, width) for _ in range(students))
        self.keys = nn.ModuleList(_embedding(points, width) for _ in range(teachers))

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], losses_NP: Tensor) -> Tensor:
        query_NSD, key_NTD = self._embed(self.queries, student), self._embed(self.keys, teacher)
        score_NST = wide(query_NSD @ key_NTD.transpose(1, 2))
        return score_NST.to(losses_NP.dtype).softmax(2).flatten(1) / len(student)

    def _embed(self, embeddings: nn.ModuleList, taps: Sequence[Tensor]) -> Tensor:
        profiles = (embed(similarity_profile(tap, self.points)) for embed, tap in zip(embeddings, taps, strict=True))
        return F.normalize(wide(torch.stack(list(profiles), 1)), dim=2)


def _embedding(points: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(points, width), nn.ReLU(), nn.Linear(width, width))
