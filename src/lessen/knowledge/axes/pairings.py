"""Which layers of a student learn from which layers of its teacher: an axis of its own, for any objective on one tap.

Even spacing: Jiao et al., TinyBERT, EMNLP Findings 2020, arXiv:1909.10351, section 3.1.
Last layers: Sun et al., Patient knowledge distillation, EMNLP 2019, arXiv:1908.09355.
Earth mover's: Li et al., BERT-EMD, EMNLP 2020, arXiv:2010.06133.
Attention over layers: Chen et al., SemCKD, AAAI 2021, arXiv:2012.03236; from pooled features: Ji et al., Show, attend
and distill, AAAI 2021, arXiv:2102.02973.

Shapes: N examples, S taps of the student, T taps of the teacher, P pairs of them, D features of a query.
Weights sum to one over the pairs, so that the loss does not grow with the number of layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, settings
from lessen.core.errors import ShapeError

_ROW = "knowledge / pairings"
Pairs = tuple[tuple[int, int], ...]
Shapes = Sequence[Sequence[int]]


@runtime_checkable
class Pairing(Protocol):
    """Settings that say which layers are compared, and how much each comparison counts.

    `relational` says whether the weights of one example depend on the others of its batch.
    """

    card: ClassVar[Card]
    relational: ClassVar[bool]

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        """The pairs (student, teacher) that are compared, counted from 0, for so many taps on each side.

        Raises:
            ShapeError: there is no such pairing of so many taps.
        """

    def weigher(self, student_shapes: Shapes, teacher_shapes: Shapes, /) -> nn.Module | None:
        """What weighs the pairs: `(student taps, teacher taps, losses (N, P)) -> (P,) or (N, P)`; None: all alike."""


class _Fixed:
    """Pairs that do not depend on values, and count alike."""

    relational: ClassVar[bool] = False

    def weigher(self, student_shapes: Shapes, teacher_shapes: Shapes, /) -> nn.Module | None:
        del student_shapes, teacher_shapes
        return None


@settings
class AsNamed(_Fixed):
    """Pair the taps in the order in which they are given. A tap that is named twice is used twice."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1412.6550",
        says="The pairs are given explicitly.",
        costs="One comparison per pair.",
        fails_when="You do not know which layers correspond.",
    )

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        if students != teachers:
            raise _unpaired("AsNamed", students, teachers, "as many taps on both sides", "EvenlySpaced()")
        return tuple((one, one) for one in range(students))


@settings
class EvenlySpaced(_Fixed):
    """Evenly spaced: of S student layers, the i-th (from 1) learns from the teacher's layer number i T / S, rounded up.

    >>> EvenlySpaced().pairs(4, 12)
    ((0, 2), (1, 5), (2, 8), (3, 11))
    """

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1909.10351",
        says="Each student layer learns from the teacher layer at the same relative depth; the last learns from the "
        "last.",
        costs="One comparison per layer of the student.",
        fails_when="Depth means something different in the two networks, as when one downsamples earlier.",
        differs="TinyBERT also pairs the embeddings: name them on another edge, or first with AsNamed().",
    )

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        return tuple((one, -(-(one + 1) * teachers // students) - 1) for one in range(students))


@settings
class LastLayers(_Fixed):
    """The last `count` layers of the student with the last of the teacher, in order.

    Args:
        count: Number of pairs.
    """

    count: Annotated[int, Field(ge=1)] = 1

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:1908.09355 (PKD-last); the last layer alone: MiniLM, arXiv:2002.10957",
        says="Only the layers nearest to the output are taught; earlier layers are free.",
        costs="One comparison per pair.",
        fails_when="The student is too shallow to reach the teacher's features: its early layers get no help.",
    )

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        if min(students, teachers) < self.count:
            raise _unpaired(f"LastLayers(count={self.count})", students, teachers, f"{self.count} or more", "less")
        return tuple((students - back, teachers - back) for back in range(self.count, 0, -1))


@settings
class EarthMover:
    """Pair every student layer with every teacher layer, weighted by the cheapest transport plan between them.

    Each layer of the student weighs 1 / S, each of the teacher 1 / T; the cost of a pair is its mean loss over the
    batch. The plan is exact. No gradient flows through it; the gradient of the least cost needs none.
    """

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:2010.06133",
        says="The losses decide which layers correspond; each layer may correspond to several.",
        costs="S x T comparisons per step, a bridge for each that differs in shape, and one small assignment problem "
        "on the CPU, which synchronises with the GPU.",
        fails_when="Losses of different layers have different scales: layers with small features attract all the "
        "weight.",
        differs="Layers have equal weights; BERT-EMD also lets the weights follow the costs. With several processes, "
        "or a batch split into parts, each process or part has its own plan.",
    )
    relational: ClassVar[bool] = True

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        return _all_pairs(students, teachers)

    def weigher(self, student_shapes: Shapes, teacher_shapes: Shapes, /) -> nn.Module | None:
        return _Transport(len(student_shapes), len(teacher_shapes))


@settings
class AttentionOverLayers:
    """Every layer of the student attends to all of the teacher: learned queries and keys from their pooled features.

    The weights of an example are softmax_t(query_s . key_t / sqrt(D)) / S, from the mean over positions of both taps.

    Args:
        width: D, the features of queries and keys.
    """

    width: Annotated[int, Field(ge=1)] = 32

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="arXiv:2012.03236; arXiv:2102.02973",
        says="Learned weights choose, for each example, which teacher layers a student layer learns from.",
        costs="S x T comparisons per step, a bridge for each that differs in shape, and two small linear maps a layer.",
        fails_when="Some teacher layer is easy to match (all but constant): attention finds it, and nothing is taught.",
        differs="Queries and keys come from pooled features, as in arXiv:2102.02973, where SemCKD takes rows of the "
        "batch's similarity matrix. So the batch size may vary, and examples do not influence each other.",
    )
    relational: ClassVar[bool] = False

    def pairs(self, students: int, teachers: int, /) -> Pairs:
        return _all_pairs(students, teachers)

    def weigher(self, student_shapes: Shapes, teacher_shapes: Shapes, /) -> nn.Module | None:
        return _Attention(student_shapes, teacher_shapes, self.width)


def least_cost_plan(cost_ST: Tensor) -> Tensor:
    """How much to move from each row to each column at the least cost: rows hold 1 / S each, columns take 1 / T each.

    Exact: masses are multiples of 1 / lcm(S, T), so it is an assignment of that many equal parts.

    >>> least_cost_plan(torch.tensor([[0.0, 1.0, 2.0, 9.0], [9.0, 9.0, 1.0, 0.0]]))
    tensor([[0.2500, 0.2500, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.2500, 0.2500]])
    """
    from scipy.optimize import linear_sum_assignment

    students, teachers = cost_ST.shape
    parts = math.lcm(students, teachers)
    cost = cost_ST.detach().double().cpu().numpy().repeat(parts // students, 0).repeat(parts // teachers, 1)
    rows, columns = linear_sum_assignment(cost)
    plan_ST = torch.zeros(students, teachers, dtype=torch.float64)
    place = torch.from_numpy(rows) // (parts // students), torch.from_numpy(columns) // (parts // teachers)
    plan_ST.index_put_(place, torch.tensor(1 / parts, dtype=torch.float64), accumulate=True)
    return plan_ST.to(cost_ST)


class _Transport(nn.Module):
    """Weights from the mean losses of the batch."""

    def __init__(self, students: int, teachers: int) -> None:
        super().__init__()
        self.size = (students, teachers)

    def forward(self, student: Any, teacher: Any, losses_NP: Tensor) -> Tensor:
        del student, teacher
        cost_ST = losses_NP.detach().mean(0).view(self.size)
        # A loss that overflowed is reported by whoever looks at the loss; a plan of it would only hide where.
        return least_cost_plan(cost_ST.nan_to_num()).flatten()


class _Attention(nn.Module):
    """Weights from queries of the student's taps and keys of the teacher's."""

    def __init__(self, student_shapes: Shapes, teacher_shapes: Shapes, width: int) -> None:
        super().__init__()
        self.queries = nn.ModuleList(nn.Linear(_features(shape), width) for shape in student_shapes)
        self.keys = nn.ModuleList(nn.Linear(_features(shape), width) for shape in teacher_shapes)

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], losses_NP: Tensor) -> Tensor:
        query_NSD = torch.stack([to(_pooled(tap)) for to, tap in zip(self.queries, student, strict=True)], 1)
        key_NTD = torch.stack([to(_pooled(tap)) for to, tap in zip(self.keys, teacher, strict=True)], 1)
        score_NST = query_NSD @ key_NTD.transpose(1, 2) / math.sqrt(query_NSD.shape[-1])
        return score_NST.to(losses_NP.dtype).softmax(2).flatten(1) / len(student)


def _features(shape: Sequence[int]) -> int:
    return shape[1] if len(shape) == 4 else shape[-1]


def _pooled(tap: Tensor) -> Tensor:
    """The mean over positions of a grid (N, C, H, W) or of tokens (N, T, C), in full precision: shape (N, C)."""
    wide = tap.float() if tap.dtype in (torch.float16, torch.bfloat16) else tap
    return wide.mean((2, 3)) if wide.ndim == 4 else wide.flatten(1, -2).mean(1) if wide.ndim > 2 else wide


def _all_pairs(students: int, teachers: int) -> Pairs:
    return tuple((one, other) for one in range(students) for other in range(teachers))


def _unpaired(name: str, students: int, teachers: int, needs: str, other: str) -> ShapeError:
    return ShapeError(
        f"{name} needs {needs}, but there are {students} taps of the student and {teachers} of the teacher. Name other "
        f"taps, or use {other}."
    )
