"""The laws of objectives, on the first of them; the catalogue is complete by tests/laws/test_catalogue.py."""

from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor

from lessen.knowledge import (
    AbsoluteDistance,
    AttentionTransfer,
    CosineDistance,
    CrossEntropy,
    EuclideanDistance,
    ForwardKL,
    Hint,
    IndependentTargets,
    JensenShannon,
    LogitCosine,
    LogitMatching,
    NumberTargets,
    Regression,
    ReverseKL,
    SoftTargets,
    TaskLoss,
    TotalVariation,
)
from lessen.testing import End, ObjectiveCase, ObjectiveLaws

DIVERGENCES = [
    ForwardKL(),
    ReverseKL(),
    JensenShannon(),
    JensenShannon(share=0.1, normalize=True),
    TotalVariation(),
]
WRONG = (
    (torch.zeros(3, 10), torch.zeros(3, 9)),
    (torch.zeros(3, 10), torch.zeros(4, 10)),
    (torch.zeros(3, 10, 2), torch.zeros(3, 10)),
)


def offset(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """A softmax does not see a common offset of the logits of an example."""
    shift = torch.arange(len(student)).to(student).view(-1, *[1] * (student.ndim - 1))
    return student + shift, teacher - 3 * shift


def other_classes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return student.flip(1), teacher.flip(1)


def longer(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    return 3 * student, teacher / 2


def more_impossible_classes(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Classes that neither finds possible do not count; an average over classes would."""
    never = torch.full_like(student[:, :3], -200.0)
    return torch.cat([student, never], 1), torch.cat([teacher, never], 1)


def tokens(*shape: int) -> tuple[Tensor, Tensor]:
    return 3 * torch.randn(shape), 3 * torch.randn(shape)


class TestSoftTargets(ObjectiveLaws):
    invariances = (offset, other_classes, more_impossible_classes)
    wrong = (*WRONG, (torch.zeros(3), torch.zeros(3)))
    ends = (
        End(make=lambda b: SoftTargets(divergence=JensenShannon(share=b, normalize=True)), end=0.0, inside=1e-5),
        End(make=lambda b: SoftTargets(divergence=JensenShannon(share=b, normalize=True)), end=1.0, inside=1 - 1e-5),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for divergence in DIVERGENCES:
            objective = SoftTargets(divergence=divergence)
            yield ObjectiveCase(objective=objective, **dict(zip(("student", "teacher"), tokens(4, 10), strict=True)))
        for objective in (SoftTargets(temperature=1.0), SoftTargets(temperature=0.5, scale_by_temperature=False)):
            student, teacher = tokens(4, 3, 2, 2)
            yield ObjectiveCase(objective=objective, student=student, teacher=teacher)


class TestCrossEntropy(ObjectiveLaws):
    wrong = (
        (torch.zeros(3, 10), torch.zeros(4, dtype=torch.long)),
        (torch.zeros(3, 10), torch.zeros(3, 1, dtype=torch.long)),
        (torch.zeros(3, 10), torch.zeros(3)),
        (torch.zeros(3, 10), torch.zeros(3, 9)),
        (torch.zeros(3), torch.zeros(3, dtype=torch.long)),
    )

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        labels = torch.tensor([2, 0, 4, 1])
        sure = 100.0 * torch.nn.functional.one_hot(labels, 5).double()
        yield ObjectiveCase(objective=CrossEntropy(), student=torch.randn(4, 5), teacher=labels, equal=(sure, labels))
        target = torch.full((4, 5), 0.02).scatter(1, labels[:, None], 0.92)
        yield ObjectiveCase(
            objective=CrossEntropy(smoothing=0.1),
            student=torch.randn(4, 5),
            teacher=labels,
            equal=(target.double().log(), labels),
            floor=-(target.double() * target.double().log()).sum(1),
        )
        probabilities = torch.randn(4, 5).softmax(1)
        yield ObjectiveCase(
            objective=CrossEntropy(),
            student=torch.randn(4, 5),
            teacher=probabilities,
            equal=(probabilities.log(), probabilities),
            floor=-(probabilities.double() * probabilities.double().log()).sum(1),
        )
        dense = torch.randint(3, (4, 2, 2))
        sure = 100.0 * torch.nn.functional.one_hot(dense, 3).double().movedim(-1, 1)
        yield ObjectiveCase(
            objective=CrossEntropy(), student=torch.randn(4, 3, 2, 2), teacher=dense, equal=(sure, dense)
        )


class TestRegression(ObjectiveLaws):
    wrong = ((torch.zeros(3, 2), torch.zeros(3)), (torch.zeros(3), torch.zeros(4)), (torch.zeros(3, 3), torch.zeros(3)))

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for objective in (Regression(), Regression(distance=AbsoluteDistance())):
            yield ObjectiveCase(objective=objective, student=torch.randn(4), teacher=torch.randn(4))
            yield ObjectiveCase(objective=objective, student=torch.randn(4, 3), teacher=torch.randn(4, 3))
            labels = torch.randn(4)
            yield ObjectiveCase(
                objective=objective, student=torch.randn(4, 1), teacher=labels, equal=(labels[:, None], labels)
            )


class TestTaskLoss(ObjectiveLaws):
    """Without a task it is told by the first outputs and labels; each kind of them is one."""

    wrong = ((torch.zeros(3, 10), torch.zeros(4, dtype=torch.long)),)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        labels = torch.tensor([2, 0, 4, 1])
        sure = 100.0 * torch.nn.functional.one_hot(labels, 5).double()
        yield ObjectiveCase(objective=TaskLoss(), student=torch.randn(4, 5), teacher=labels, equal=(sure, labels))
        yield ObjectiveCase(objective=TaskLoss(), student=torch.randn(4, 3), teacher=torch.randn(4, 3))


class TestIndependentTargets(ObjectiveLaws):
    wrong = (*WRONG,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for shape in ((4, 5), (4, 1), (4,), (3, 2, 4, 4)):
            objective = IndependentTargets(temperature=2.0)
            yield ObjectiveCase(objective=objective, student=torch.randn(shape), teacher=torch.randn(shape))


class TestNumberTargets(ObjectiveLaws):
    wrong = (*WRONG,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for shape in ((4, 5), (4, 1), (4,)):
            yield ObjectiveCase(objective=NumberTargets(), student=torch.randn(shape), teacher=torch.randn(shape))


class TestLogitMatching(ObjectiveLaws):
    wrong = (*WRONG, (torch.zeros(3), torch.zeros(3)))
    invariances = (other_classes,)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield ObjectiveCase(objective=LogitMatching(), student=torch.randn(4, 10), teacher=torch.randn(4, 10))


class TestLogitCosine(ObjectiveLaws):
    wrong = WRONG
    invariances = (other_classes, longer)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        yield ObjectiveCase(objective=LogitCosine(), student=torch.randn(4, 10), teacher=torch.randn(4, 10))


class TestHint(ObjectiveLaws):
    wrong = (*WRONG, (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 3)))

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        for distance in (None, AbsoluteDistance(), CosineDistance(), EuclideanDistance()):
            objective = Hint() if distance is None else Hint(distance=distance)
            yield ObjectiveCase(objective=objective, student=torch.randn(4, 3, 2, 2), teacher=torch.randn(4, 3, 2, 2))
        yield ObjectiveCase(objective=Hint(), student=torch.randn(4, 5, 3), teacher=torch.randn(4, 5, 3))


class TestAttentionTransfer(ObjectiveLaws):
    wrong: ClassVar = (
        (torch.zeros(3, 4, 2, 2), torch.zeros(3, 4, 2, 3)),
        (torch.zeros(3, 4, 2, 2), torch.zeros(4, 4, 2, 2)),
        (torch.zeros(3, 4, 2), torch.zeros(3, 5, 2)),
        (torch.zeros(3, 4), torch.zeros(3, 4)),
    )
    invariances = (other_classes, longer)

    @classmethod
    def cases(cls) -> Iterable[ObjectiveCase]:
        maps = torch.randn(4, 3, 2, 3), torch.randn(4, 3, 2, 3)
        for objective in (AttentionTransfer(), AttentionTransfer(power=4.0)):
            yield ObjectiveCase(objective=objective, student=maps[0], teacher=maps[1])
        # Channels may differ in number.
        objective = AttentionTransfer(distance=EuclideanDistance())
        yield ObjectiveCase(objective=objective, student=torch.randn(4, 5, 2, 3), teacher=torch.randn(4, 3, 2, 3))
