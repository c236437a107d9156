"""Wasserstein divergence over classes: to mistake a cat for a dog costs less than to mistake it for a lorry.

Lv et al., Wasserstein distance rivals Kullback-Leibler divergence for knowledge distillation, NeurIPS 2024,
arXiv:2412.08139, section 3.1; the costs are an axis of their own.

Shapes: N examples, C classes along axis 1, any further axes are positions.
"""

from __future__ import annotations

import functools
from typing import Annotated, ClassVar, Protocol, Self, runtime_checkable

import torch
from pydantic import Field, model_validator
from torch import Tensor

from lessen.core import Card, settings
from lessen.core.errors import ShapeError
from lessen.functional import transport
from lessen.functional.divergences import total_variation


@runtime_checkable
class ClassCost(Protocol):
    """What it costs to move probability from one class to another."""

    def transport(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        """The least cost of turning one distribution into the other, (N, C, ...) to (N, ...)."""


@settings
class EveryMistakeAlike:
    """1 between any two classes: the distance is total variation, exactly."""

    def transport(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return total_variation(student_log_NC, teacher_log_NC)


@settings
class ClassesOnALine:
    """The distance between places on a line, as of ages, grades or depths; exact.

    Args:
        places: The position of each class, increasing; None puts class c at c.
    """

    places: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if self.places is not None and any(b <= a for a, b in zip(self.places, self.places[1:], strict=False)):
            raise ValueError("places must increase from class to class; order the classes, or use CostMatrix")
        return self

    def transport(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        classes = student_log_NC.shape[1]
        places = tuple(range(classes)) if self.places is None else self.places
        _require("ClassesOnALine", "places", len(places), classes)
        places_C = torch.tensor(places, dtype=student_log_NC.dtype, device=student_log_NC.device)
        return transport.line_transport(student_log_NC.exp(), teacher_log_NC.exp(), places_C)


@settings
class ClassesInGroups:
    """A lower cost within a group of classes than between groups, where it is 1; exact.

    Args:
        groups: The group of each class, numbers from 0.
        near: The cost between two classes of one group, from 0 (they are the same) to 1 (groups do not matter).
    """

    groups: tuple[Annotated[int, Field(ge=0)], ...]
    near: Annotated[float, Field(ge=0, le=1)] = 0.5

    def transport(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        _require("ClassesInGroups", "groups", len(self.groups), student_log_NC.shape[1])
        groups_C = torch.tensor(self.groups, device=student_log_NC.device)
        both = student_log_NC.exp(), teacher_log_NC.exp()
        return transport.group_transport(*both, groups_C, groups=max(self.groups) + 1, near=self.near)


@settings
class CostMatrix:
    """Any symmetric cost between classes, smoothed by entropy; exact where all classes are equally far apart.

    Args:
        rows: The cost from each class to each, zeros on the diagonal.
        blur: How much the plan is smoothed, as a share of the largest cost; smaller is nearer to exact, and slower.
    """

    rows: tuple[tuple[Annotated[float, Field(ge=0, allow_inf_nan=False)], ...], ...]
    blur: Annotated[float, Field(ge=0.1, le=1)] = 0.1

    @model_validator(mode="after")
    def _metric(self) -> Self:
        if len(self.rows) < 2 or any(len(row) != len(self.rows) for row in self.rows):
            raise ValueError("rows must be a square of two classes or more")
        cost_CC = self.matrix
        if bool(cost_CC.diagonal().any()) or not torch.equal(cost_CC, cost_CC.T) or not bool(cost_CC.any()):
            raise ValueError("rows must be symmetric, with zeros on the diagonal only")
        return self

    @functools.cached_property
    def matrix(self) -> Tensor:
        """The rows as a tensor."""
        return torch.tensor(self.rows, dtype=torch.float64)

    @functools.cached_property
    def _alike(self) -> bool:
        others = self.matrix[~torch.eye(len(self.rows), dtype=torch.bool)]
        return bool((others == others[0]).all())

    def transport(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        _require("CostMatrix", "rows", len(self.rows), student_log_NC.shape[1])
        if self._alike:
            return self.rows[0][1] * total_variation(student_log_NC, teacher_log_NC)
        cost_CC = self.matrix.to(student_log_NC)
        return transport.matrix_transport(student_log_NC.exp(), teacher_log_NC.exp(), cost_CC, blur=self.blur)


@settings
class Wasserstein:
    """The least cost of moving the student's probabilities onto the teacher's.

    Args:
        cost: The cost of moving probability from one class to another.
    """

    cost: ClassCost = EveryMistakeAlike()

    card: ClassVar[Card] = Card(
        row="knowledge / divergences",
        paper="WKD, arXiv:2412.08139",
        says="Probability on a class close to the teacher's class costs little.",
        costs="One pass over the logits for classes on a line or in groups. With a CostMatrix, ten to twenty systems "
        "of C equations for each example, in double precision: for up to a few hundred classes.",
        fails_when="The costs do not describe the classes. Like total variation, it has a small gradient when student "
        "and teacher are sure of different classes.",
        differs="A CostMatrix is debiased (Feydy et al., arXiv:1810.08278), so that equal distributions cost nothing; "
        "the paper's plan is smoothed and not debiased, and its costs come from the similarity of features.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return self.cost.transport(student_log_NC, teacher_log_NC)


def _require(name: str, setting: str, given: int, classes: int) -> None:
    if given != classes:
        raise ShapeError(f"{name} has {given} {setting}, but there are {classes} classes. Give one for each class.")
