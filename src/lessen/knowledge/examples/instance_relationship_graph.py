"""Instance relationship graph: what examples are, how far apart they are, and how far a layer moves them.

Liu et al., Knowledge distillation via instance relationship graph (IRG), CVPR 2019, section 3.

Shapes: N examples, L taps from shallow to deep, features of any shape, flattened to C.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor

from lessen.core import Card, settings
from lessen.core.errors import ShapeError
from lessen.functional.pairs import centred_gram, paired_rows, squared_distances
from lessen.functional.shapes import mismatch
from lessen.knowledge.axes.distances import Distance, SquaredDistance


def edge_lengths(rows_NC: Tensor) -> Tensor:
    """The mean of squared differences of each pair, shape (N, N).

    >>> edge_lengths(torch.tensor([[0.0, 0.0], [3.0, 4.0]]))
    tensor([[ 0.0000, 12.5000],
            [12.5000,  0.0000]])
    """
    return squared_distances(centred_gram(rows_NC)) / rows_NC.shape[1]


def moved(before_NC: Tensor, after_NC: Tensor) -> Tensor:
    """How far each example goes from one layer to the next, as a mean of squared differences: shape (N,)."""
    return (after_NC - before_NC).square().mean(1)


@settings
class InstanceRelationshipGraph:
    """Match the graph of the batch at one or more layers, and how it changes from layer to layer.

    The loss has three parts. Vertices: the features of the last tap. Edges: the distances between all pairs of examples
    at each tap, summed over the taps. Transformation: how far each example moves from one tap to the next, summed over
    pairs of taps. To use one part alone, or a weight for each part, give each part its own graph edge and switch the
    other parts off.

    The loss of an example is the mean over its row, so the mean over examples is the mean over all pairs.

    Args:
        vertices: Whether the last taps are compared; they must be of one shape (take the logits).
        edges: Whether distances of pairs are compared; the networks may differ in width.
        transformation: Whether the moves from tap to tap are compared. Only pairs of taps with equal shapes within each
            network count; there must be at least one.
        distance: How each part is compared.
    """

    vertices: bool = True
    edges: bool = True
    transformation: bool = True
    distance: Distance = SquaredDistance()

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="IRG, Liu et al., CVPR 2019",
        says="The student matches the teacher's outputs, its distances between examples, and its distances between "
        "layers.",
        costs="Nothing in the shipped model; a product of N x C matrices for each tap per step.",
        fails_when="Features of student and teacher differ in scale: distances are compared without normalisation. "
        "Use RelationalDistance then. The loss is a fourth power of the features: in float16 it overflows "
        "if they exceed 16; use float32 taps or HuberDistance then.",
        differs="Distances are means over features, where the paper sums, so that student and teacher may differ in "
        "width, and parts are means over pairs. The paper also names a transformation of the edges, the change of the "
        "distances from layer to layer; where edges agree at each tap, it does too.",
    )
    relational: ClassVar[bool] = True

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not (self.vertices or self.edges or self.transformation):
            raise ValueError("vertices, edges and transformation are all off; set one of them")
        return self

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        students, teachers = _taps(student), _taps(teacher)
        if len(students) != len(teachers):
            raise ShapeError(
                f"InstanceRelationshipGraph needs as many taps on both sides, but the student has {len(students)} "
                f"({_shapes(students)}) and the teacher {len(teachers)} ({_shapes(teachers)})."
            )
        pairs = [paired_rows(*pair, what="InstanceRelationshipGraph") for pair in zip(students, teachers, strict=True)]
        parts: list[Tensor] = []
        if self.vertices:
            if pairs[-1][0].shape != pairs[-1][1].shape:
                raise mismatch(
                    students[-1],
                    teachers[-1],
                    what="InstanceRelationshipGraph with vertices",
                    expected="last taps of one size",
                    advice="Name the logits as the last tap, put a bridge on the edge, or set vertices=False.",
                )
            parts.append(self.distance(*pairs[-1]))
        if self.edges:
            parts += [self.distance(*map(edge_lengths, pair)) for pair in pairs]
        if self.transformation:
            steps = [pair for pair in pairwise(pairs) if _is_step(*pair)]
            if not steps:
                raise ShapeError(
                    "InstanceRelationshipGraph with transformation needs two taps in a row of one size, in the student "
                    f"and in the teacher, but the student has {_shapes(students)} and the teacher {_shapes(teachers)}. "
                    "Tap two layers of one stage, or set transformation=False."
                )
            parts += [self.distance(*(moved(*way) for way in zip(*step, strict=True))) for step in steps]
        return torch.stack(parts).sum(0).to(students[0].dtype)


def _taps(side: Any) -> tuple[Tensor, ...]:
    return side if isinstance(side, tuple) else (side,)


def _shapes(taps: tuple[Tensor, ...]) -> str:
    return ", ".join(str(tuple(tap.shape)) for tap in taps)


def _is_step(before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> bool:
    """Whether both networks keep their size from one tap to the next."""
    return all(first.shape == second.shape for first, second in zip(before, after, strict=True))
