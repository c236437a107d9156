"""Any objective on one tap, over several layers at once: the layers are paired, each pair is bridged and compared.

The papers of the pairings are listed in `pairings.py`.

Shapes: N examples, S taps of the student, T taps of the teacher, P pairs of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from lessen.core import Bridge, Card, LearnedObjective, Objective, ObjectiveInput, TaskFacts, settings
from lessen.core.errors import ShapeError
from lessen.functional.shapes import wide
from lessen.knowledge.axes.pairings import EvenlySpaced, Pairing, Shapes
from lessen.knowledge.bridges.bridges import AutoBridge
from lessen.knowledge.features.hint import Hint
from lessen.surgery.values import shapes_of


@settings
class OverLayers:
    """The weighted mean of an objective over pairs of layers. Both sides of its edge are several taps.

    Args:
        objective: Compares each pair of layers; an objective with state is built once for each pair.
        pairing: Which layers are compared, and how much each pair counts.
        bridge: Maps between the two taps of each pair, and learns with the edge. None: they are compared as they are.
    """

    objective: Objective | LearnedObjective = Hint()
    pairing: Pairing = EvenlySpaced()
    bridge: Bridge | None = AutoBridge()

    card: ClassVar[Card] = Card(
        row="knowledge / layer pairing",
        paper="arXiv:1909.10351; arXiv:2010.06133; arXiv:2012.03236",
        says="Many layers of the student learn from many of the teacher.",
        costs="The objective once per pair; a bridge for each pair whose shapes differ; nothing in the shipped model.",
        fails_when="Too many layers are constrained at once: the student has no freedom left.",
        differs="The weights of the pairs sum to one; the papers sum the losses of all layers.",
    )

    @model_validator(mode="after")
    def _one_for_each_pair(self) -> Self:
        if isinstance(self.objective, nn.Module):
            raise ValueError("objective is a module that is already built; give the settings that build one for a pair")
        return self

    @property
    def relational(self) -> bool:
        """Whether the objective, or the pairing, looks at the whole batch."""
        return self.pairing.relational or bool(getattr(self.objective, "relational", False))

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What the objective needs in addition to the teacher's taps."""
        return tuple(getattr(self.objective, "needs", ()))

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        """The objective for tuples of shapes.

        Raises:
            ShapeError: a side is no tuple, so many layers cannot be paired, or a pair does not fit.
        """
        for side in (student_shape, teacher_shape):
            if not isinstance(side, tuple | list) or not all(isinstance(shape, tuple | list) for shape in side):
                raise ShapeError(
                    f"OverLayers needs several taps on both sides, but the student has {student_shape} and the teacher "
                    f"{teacher_shape}. Name them, as taps('layer1', 'layer2')."
                )
        return PairedLayers(self, student_shape, teacher_shape, task)


class PairedLayers(nn.Module):
    """An objective over pairs of layers, built for their shapes.

    Args:
        settings: What made it.
        student_shapes: Of the student's taps.
        teacher_shapes: Of the teacher's taps.
        task: What objectives with state are told.
    """

    card: ClassVar[Card] = OverLayers.card

    def __init__(self, settings: OverLayers, student_shapes: Shapes, teacher_shapes: Shapes, task: TaskFacts) -> None:
        super().__init__()
        self.relational, self.needs = settings.relational, settings.needs
        self.sizes = (len(student_shapes), len(teacher_shapes))
        self.pairs = settings.pairing.pairs(*self.sizes)
        self.weigher = settings.pairing.weigher(student_shapes, teacher_shapes)
        bridges, objectives = [], []
        for one, other in self.pairs:
            before, after = student_shapes[one], teacher_shapes[other]
            bridge = nn.Identity() if settings.bridge is None else settings.bridge.build(before, after)
            bridges.append(bridge)
            objectives.append(_built(settings.objective, _shape_behind(bridge, before), after, task))
        self.bridges = nn.ModuleList(bridges)
        self.learned = nn.ModuleList(each for each in objectives if isinstance(each, nn.Module))
        self._objectives = None if len(self.learned) else settings.objective
        self.progress = 0.0

    def during(self, progress: float) -> PairedLayers:
        """Tell the objectives how far the stage is."""
        self.progress = progress
        return self

    def forward(self, student: Sequence[Tensor], teacher: Any) -> Tensor:
        taps, more = (teacher[0], tuple(teacher[1:])) if self.needs else (teacher, ())
        if (len(student), len(taps)) != self.sizes:
            raise ShapeError(
                f"OverLayers was built for {self.sizes[0]} and {self.sizes[1]} taps, but the student has "
                f"{shapes_of(tuple(student))} and the teacher {shapes_of(tuple(taps))}. Give as many."
            )
        losses = []
        for number, (one, other) in enumerate(self.pairs):
            given = (taps[other], *more) if self.needs else taps[other]
            losses.append(self._objective(number)(self._bridged(number, student[one]), given))
        loss_NP = wide(torch.stack(losses, 1))
        if self.weigher is None:
            return loss_NP.mean(1).to(losses[0].dtype)
        weight: Tensor = self.weigher(student, taps, loss_NP)
        return (loss_NP * weight).sum(1).to(losses[0].dtype)

    def _bridged(self, number: int, tap: Tensor) -> Tensor:
        bridge = self.bridges[number]
        if isinstance(bridge, nn.Identity):
            return tap
        bridged: Tensor = bridge(wide(tap))
        return bridged.to(tap.dtype)

    def _objective(self, number: int) -> Any:
        objective: Any = self.learned[number] if self._objectives is None else self._objectives
        during = getattr(objective, "during", None)
        return objective if during is None else during(self.progress)


def _built(objective: Any, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> Any:
    if isinstance(objective, LearnedObjective):
        return objective.objective_for(student_shape, teacher_shape, task)
    return objective


@torch.no_grad()
def _shape_behind(bridge: nn.Module, shape: Sequence[int]) -> tuple[int, ...]:
    if isinstance(bridge, nn.Identity):
        return tuple(shape)
    return tuple(bridge.eval()(torch.zeros(tuple(shape))).shape)
