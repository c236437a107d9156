"""Correlation matching: the student's probabilities need only be correlated with the teacher's.

Huang et al., Knowledge distillation from a stronger teacher (DIST), NeurIPS 2022, arXiv:2205.10536, section 3.

Shapes: N examples, C classes along axis 1, any further axes are positions; P = N * positions.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.correlation import pearson
from lessen.functional.shapes import per_example, require_same, wide
from lessen.knowledge.axes.temperature import Temperature, at_progress, first_temperature


def correlation_matching(student: Tensor, teacher: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    """1 - Pearson's correlation of softmax(logits / T): over classes for each example (N,), and over the batch ().

    The second is the mean over classes of the correlation along all examples and positions.

    Raises:
        ShapeError: the logits differ in shape, or are not (N, C, ...).
    """
    require_same(student, teacher, what="CorrelationMatching", least=2)
    both = [(wide(logits) / temperature).softmax(1) for logits in (student, teacher)]
    rows = per_example(1 - pearson(*both, dim=1), both[0])
    columns = (1 - pearson(*(p.movedim(1, -1).flatten(0, -2) for p in both), dim=0)).mean()
    return rows, columns


@settings
class CorrelationMatching:
    """Match the teacher's correlations between classes of an example, and between examples of a class.

    Args:
        temperature: Divides both sets of logits.
        columns: The weight of the relations between examples; that of the relations between classes is 1.
        scale_by_temperature: Multiply by temperature ** 2, as the authors' code does with the rows.
    """

    temperature: Temperature = 1.0
    columns: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    scale_by_temperature: bool = False

    relational: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="knowledge / soft targets",
        paper="DIST, arXiv:2205.10536",
        says="1 - correlation over classes, plus 1 - correlation over the examples of the batch.",
        costs="Two more passes over the probabilities.",
        fails_when="The batch is small compared with the number of classes: a class that hardly occurs in it has no "
        "reliable correlation. With two classes, the correlation over classes tells only which is larger.",
        differs="Not multiplied by T^2 unless asked, as in the paper. The relation between examples is one number for "
        "the batch, the same for each example. The paper's weights of 2 and 2 are a weight of 2 on the edge.",
    )

    def during(self, progress: float) -> Self:
        """The same with the temperature of this progress of the stage."""
        return at_progress(self, progress)

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        temperature = first_temperature(self.temperature)
        rows, columns = correlation_matching(student, teacher, temperature=temperature)
        loss = rows + self.columns * columns
        return (loss * temperature**2 if self.scale_by_temperature else loss).to(student.dtype)
