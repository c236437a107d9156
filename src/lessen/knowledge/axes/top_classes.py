"""Any divergence, over the teacher's most probable classes alone.

Peng et al., Pre-training distillation for large language models, arXiv:2410.16215 (top-k logits); with a class for all
others as in released code for language models.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.top_classes import top_classes
from lessen.knowledge.axes.divergences import Divergence, ForwardKL


@settings
class TopClasses:
    """A divergence over the classes that the teacher finds most probable; with all classes it is that divergence.

    It acts on probabilities, after any temperature, transform and mask.

    Args:
        count: How many classes are kept.
        rest: Whether all other classes are merged into one more class. If not, the kept probabilities are rescaled to
            sum to one, and the other classes are not constrained.
        divergence: Compares the distributions over these classes.
    """

    count: Annotated[int, Field(ge=1)] = 10
    rest: bool = True
    divergence: Divergence = ForwardKL()

    card: ClassVar[Card] = Card(
        row="knowledge / divergences",
        paper="arXiv:2410.16215",
        says="The tail of the teacher's distribution, which is mostly noise, counts as one class or not at all.",
        costs="One selection of the largest over the logits.",
        fails_when="The knowledge is in the tail; or `rest` is off and no labels constrain the student elsewhere. "
        "With one class and no rest, there is nothing to learn.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return self.divergence(*top_classes(student_log_NC, teacher_log_NC, count=self.count, rest=self.rest))
