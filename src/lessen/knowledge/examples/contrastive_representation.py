"""Contrastive representation: the two networks know an example's features from those of all other examples.

Tian, Krishnan & Isola, Contrastive representation distillation (CRD), ICLR 2020, arXiv:1910.10699, section 3.

Shapes: N examples of the batch, M of the training split, features of any shape, flattened, embedded in D numbers; K
negatives.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Card, ObjectiveInput, settings
from lessen.core.data import TaskFacts
from lessen.knowledge.examples.contrasts import Scores, mean_of_exponentials, noise_contrast
from lessen.knowledge.examples.memory import Embedding, Memory, embedded, negatives_for, of_all_processes, split_inputs


class ContrastiveRepresentationLoss(nn.Module):
    """The objective with its embeddings, its memory and its constants; see `ContrastiveRepresentation`."""

    log_constant: Tensor
    started: Tensor

    def __init__(
        self, made_by: ContrastiveRepresentation, student_shape: Any, teacher_shape: Any, task: TaskFacts
    ) -> None:
        super().__init__()
        self.settings = made_by
        self.card, self.relational, self.needs = made_by.card, made_by.relational, made_by.needs
        what = type(made_by).__name__
        self.student = Embedding(student_shape, made_by.width, what=what)
        self.teacher = Embedding(teacher_shape, made_by.width, what=what)
        count = negatives_for(task, made_by.negatives, what=what)
        self.memory = Memory(task.examples, made_by.width, negatives=count, by_label=made_by.by_label)
        self.register_buffer("log_constant", torch.zeros(2))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, student: Tensor, teacher: Any) -> Tensor:
        features, labels_N, index_N = split_inputs(teacher, by_label=self.settings.by_label)
        student_ND, teacher_ND = embedded(student, features, self.student, self.teacher)
        drawn = self.memory.draw(index_N, labels_N)
        scores = self.memory.scores(student_ND, teacher_ND, drawn)
        both = [side.over(self.settings.temperature) for side in scores]
        by_student, by_teacher = map(noise_contrast, both, self._constants(both))
        self.memory.remember(index_N, labels_N, student_ND, teacher_ND, momentum=self.settings.momentum)
        return (by_student + by_teacher).to(student.dtype)

    def _constants(self, both: list[Scores]) -> Tensor:
        """The logarithm of the mean of e^score on the first training batch, for each direction: shape (2,)."""
        if bool(self.started):
            return self.log_constant
        constants = torch.stack([mean_of_exponentials(scores) for scores in both])
        if not self.training:
            return constants
        everywhere = of_all_processes(constants.detach()[None])
        self.log_constant.copy_(everywhere.logsumexp(0) - math.log(len(everywhere)))
        self.started.fill_(True)
        return self.log_constant


@settings
class ContrastiveRepresentation:
    """Contrast an example's features with the other network's features of the same and of other examples.

    Both are embedded and scaled to unit length, and compared with a memory of the other network's embeddings of all
    training examples. Works best on the last features before the classifier, averaged over positions.

    Args:
        width: The width of the embedding.
        temperature: Divides the inner products of embeddings.
        negatives: Number of other examples that each is compared with, at most a quarter of all examples. None: 16,384,
            or a quarter of all if that is less.
        momentum: The share of an example's stored vector that is kept when the example is seen again.
        by_label: Whether to exclude examples of the same class from the negatives. Needs labels. If not, only the
            example itself is excluded.
    """

    width: Annotated[int, Field(ge=1)] = 128
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.07
    negatives: Annotated[int, Field(ge=1)] | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    by_label: bool = True

    card: ClassVar[Card] = Card(
        row="knowledge / between examples",
        paper="CRD, arXiv:1910.10699",
        says="A bound on the mutual information of the two networks' features, by noise-contrastive estimation.",
        costs="Nothing in the shipped model; while training two linear layers, a memory of 2 M D numbers, and two "
        "products of N x D and D x K per step.",
        fails_when="There are few examples, or each is seen only once, so that the memory is still random. The loss is "
        "not zero when student and teacher are equal. In float16 the sum over negatives may overflow; use float32.",
        differs="Negatives are drawn once for a batch, not for each example, and those of the example's own class are "
        "replaced by others: the expectation is the same and needs one matrix product. Classes are known only for "
        "examples that were seen, so in the first pass some negatives may be of the same class. At most a quarter of "
        "the examples are negatives (the authors take 16,384 of 50,000). The loss takes the logarithm of h itself; "
        "released code adds 1e-7. The memory is initialised with random unit vectors.",
    )
    relational: ClassVar[bool] = True

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """What it needs in addition to the teacher's features."""
        return (ObjectiveInput.LABELS, ObjectiveInput.INDEX) if self.by_label else (ObjectiveInput.INDEX,)

    def objective_for(self, student_shape: Any, teacher_shape: Any, task: TaskFacts) -> nn.Module:
        return ContrastiveRepresentationLoss(self, student_shape, teacher_shape, task)
