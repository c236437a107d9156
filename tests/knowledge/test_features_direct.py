"""The laws of objectives, on those of direct features."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from lessen.core import TaskFacts
from lessen.knowledge import (
    ActivationBoundary,
    AsItIs,
    CosineDistance,
    HierarchicalContext,
    Hint,
    LogSumDistance,
    MaskedGeneration,
    NormalizedHint,
    NormAndDirection,
    OneForAll,
    Overhaul,
    OverLayers,
    SimilarityAttention,
    StandardizeChannels,
    StandardizePositions,
    UnitLength,
    VariationalInformation,
    Whiten,
)
from lessen.testing import ObjectiveCase, ObjectiveLaws
from lessen.testing.objectives import learned

WRONG = (
    (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 3)),
    (torch.zeros(3, 4, 2, 2), torch.zeros(3, 5, 2, 2)),
    (torch.zeros(3, 4, 2, 2), torch.zeros(4, 4, 2, 2)),
)
LABELS = torch.tensor([2, 0, 1, 2])


def other_channels(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student.flip(1), teacher.flip(1)


def features() -> Iterable[tuple[Tensor, Tensor]]:
    """A vector, tokens, a grid."""
    for shape in ((4, 5), (4, 3, 5), (4, 3, 2, 3)):
        yield torch.randn(shape), torch.randn(shape)


class TestActivationBoundary(ObjectiveLaws):
    wrong = WRONG
    invariances: ClassVar = (other_channels, lambda student, teacher: (student, 7 * teacher))

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for student, teacher in features():
            right = torch.where(teacher > 0, 1.5, -1.5)
            yield ObjectiveCase(
                objective=ActivationBoundary(), student=student, teacher=teacher, equal=(right, teacher)
            )
        yield ObjectiveCase(
            objective=ActivationBoundary(margin=0.1), student=student, teacher=teacher, equal=(right, teacher)
        )


class TestOverhaul(ObjectiveLaws):
    wrong = WRONG[:1]

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for student, teacher in features():
            # A student below every negative target has nothing to learn there.
            equal = torch.where(teacher > 0, teacher, -9.0), teacher
            yield learned(Overhaul(), student, teacher, equal=equal)
            margin = (-0.3,) * (teacher.shape[2] if teacher.ndim == 3 else teacher.shape[1])
            yield learned(Overhaul(margin=margin), student, teacher, equal=equal)


class TestVariationalInformation(ObjectiveLaws):
    wrong = WRONG[:1]
    invariances = (other_channels,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for student, teacher in features():
            for variance in (5.0, 0.5):
                floor = torch.tensor(variance, dtype=torch.float64).log() / 2
                yield learned(VariationalInformation(variance=variance), student, teacher, floor=floor)


class TestHierarchicalContext(ObjectiveLaws):
    wrong = (*WRONG, (torch.zeros(3, 4, 2), torch.zeros(3, 4, 2)))
    invariances = (other_channels,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (HierarchicalContext(), HierarchicalContext(sizes=(2,), distance=CosineDistance())):
            yield ObjectiveCase(objective=objective, student=torch.randn(4, 3, 5, 5), teacher=torch.randn(4, 3, 5, 5))
        yield ObjectiveCase(
            objective=HierarchicalContext(), student=torch.randn(4, 3, 1, 1), teacher=torch.randn(4, 3, 1, 1)
        )


class TestMaskedGeneration(ObjectiveLaws):
    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        maps = torch.randn(4, 3, 4, 5), torch.randn(4, 3, 4, 5)
        for settings in (MaskedGeneration(), MaskedGeneration(channels=True, masked=0.15, distance=CosineDistance())):
            yield learned(settings, *maps, floor=None)


class TestNormalizedHint(ObjectiveLaws):
    wrong = WRONG
    invariances = (other_channels,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for student, teacher in features():
            for normalizer in (StandardizeChannels(), StandardizePositions(), UnitLength()):
                objective = NormalizedHint(student=normalizer, teacher=normalizer)
                yield ObjectiveCase(objective=objective, student=student, teacher=teacher)
        yield ObjectiveCase(objective=NormalizedHint(distance=LogSumDistance()), student=student, teacher=teacher)
        yield ObjectiveCase(
            objective=NormalizedHint(student=AsItIs()),
            student=student,
            teacher=teacher,
            equal=(_standardized(teacher), teacher),
        )


class TestWhitenedHint(ObjectiveLaws):
    """The Cholesky factor, unlike other normalisers, depends on the order of the channels."""

    wrong = WRONG

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for student, teacher in features():
            for side in (Whiten(), AsItIs()):
                objective = NormalizedHint(student=side, teacher=Whiten())
                floor = 0.0 if isinstance(side, Whiten) else None
                yield ObjectiveCase(objective=objective, student=student, teacher=teacher, floor=floor)


class TestNormAndDirection(ObjectiveLaws):
    wrong: ClassVar = tuple((student, (teacher, torch.zeros(3, dtype=torch.long))) for student, teacher in WRONG[:2])

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for student, teacher in features():
            yield learned(NormAndDirection(), student, (teacher, LABELS))
        # Means that were seen; then the best a student can be is long, in the direction of its class.
        made = learned(NormAndDirection(), torch.randn(4, 5), (torch.randn(4, 5), LABELS), task=_task(3))
        made.objective.train()
        made.objective(*[made.student, made.teacher])
        made.objective.eval()
        best = 9 * made.objective.directions(made.teacher[0], LABELS)
        yield ObjectiveCase(
            objective=made.objective,
            student=made.student,
            teacher=made.teacher,
            made_by=made.made_by,
            equal=(best, made.teacher),
        )


class TestOneForAll(ObjectiveLaws):
    wrong: ClassVar = (
        (torch.zeros(3, 4), (torch.zeros(3, 5), torch.zeros(3, dtype=torch.long))),
        (torch.zeros(3, 4), (torch.zeros(3, 4), torch.zeros(4, dtype=torch.long))),
    )
    invariances: ClassVar = (lambda student, teacher: (student + 3, (teacher[0] - 2, teacher[1])),)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        student, teacher = torch.randn(4, 3), torch.randn(4, 3)
        for power in (1.0, 1.5, 2.0):
            # The student's best probabilities are in proportion to the targets.
            label = torch.nn.functional.one_hot(LABELS, 3).double()
            target = (teacher.double().softmax(1) + label).pow(power) - label
            best = target / target.sum(1, keepdim=True)
            yield ObjectiveCase(
                objective=OneForAll(power=power),
                student=student,
                teacher=(teacher, LABELS),
                equal=(best.log(), (teacher.double(), LABELS)),
                floor=-(target * best.log()).sum(1),
            )
        yield ObjectiveCase(
            objective=OneForAll(temperature=4.0), student=student, teacher=(teacher, LABELS), floor=None
        )
        maps = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
        dense = torch.randint(3, (4, 2, 2))
        yield ObjectiveCase(objective=OneForAll(), student=maps[0], teacher=(maps[1], dense), floor=None)


class TestSemanticCalibration(ObjectiveLaws):
    """A hint between every two layers, weighed by what they find alike."""

    wrong: ClassVar = (((torch.zeros(3, 4),), (torch.zeros(3, 4),)),)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        settings = OverLayers(objective=Hint(), pairing=SimilarityAttention(points=5, width=4))
        student = torch.randn(4, 3, 4, 4), torch.randn(4, 5, 2, 2)
        teacher = torch.randn(4, 6, 4, 4), torch.randn(4, 7, 2, 2), torch.randn(4, 8)
        yield learned(settings, student, teacher, floor=None, equal=(student, teacher))


def _standardized(teacher: Tensor) -> Tensor:
    wide = teacher.double()
    variance, mean = torch.var_mean(wide, (0, 2, 3), correction=0, keepdim=True)
    return (wide - mean) / (variance + 1e-6).sqrt()


def _task(classes: int) -> TaskFacts:
    return TaskFacts(examples=64, classes=classes)
