"""An objective: from the student's value and the teacher's to one loss for each example."""

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from lessen.core import Card, settings


@settings
class CentredCosine:
    """One minus the cosine between the student's output and the teacher's, each centred over its classes.

    Args:
        eps: The smallest length of an output, so that an output of zeros has a cosine.
    """

    eps: float = 1e-8

    card: ClassVar[Card] = Card(
        row="knowledge / logits",
        paper="example",
        says="The student's output points in the teacher's direction; its length is free.",
        costs="Nothing next to the forward passes.",
        fails_when="The length matters, as for calibrated probabilities.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        """Losses of shape (N,), from outputs of shape (N, K)."""
        student, teacher = (value - value.mean(1, keepdim=True) for value in (student, teacher))
        return 1 - F.cosine_similarity(student, teacher, dim=1, eps=self.eps)
