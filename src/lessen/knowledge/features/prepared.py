"""The common part of objectives that first learn from the teacher before they teach the student.

Shapes: N examples.
"""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn


class Prepared(nn.Module):
    """An objective with an estimator that learns from the teacher for the first part of a stage, and is then frozen.

    While the progress of the stage is below `prepare`, a call returns the estimator's own loss on the teacher, and the
    student is not touched; afterwards the estimator is in eval mode, without gradient, and a call compares. A subclass
    says how, by `preparation` and `comparison`.

    Args:
        estimator: What learns from the teacher.
        prepare: The share of the stage for it, from 0 up to, not including, 1. 0: it stays as it was drawn.
    """

    def __init__(self, estimator: nn.Module, *, prepare: float) -> None:
        super().__init__()
        self.estimator = estimator
        self.prepare = prepare
        self.preparing = True
        self.during(0.0)

    def preparation(self, teacher: Any) -> Tensor:
        """The estimator's loss on the teacher's taps, shape (N,)."""
        raise NotImplementedError(f"{type(self).__name__} must say how its estimator learns")

    def comparison(self, student: Any, teacher: Any) -> Tensor:
        """The loss of the student, shape (N,)."""
        raise NotImplementedError(f"{type(self).__name__} must say how it compares")

    def during(self, progress: float) -> Self:
        """Prepare or compare from here on; going back is allowed, as a new run of a stage does."""
        preparing = progress < self.prepare
        if preparing != self.preparing:
            self.preparing = preparing
            self.estimator.requires_grad_(preparing)
            self.train(self.training)
        return self

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if not self.preparing:
            self.estimator.eval()
        return self

    def forward(self, student: Any, teacher: Any) -> Tensor:
        return self.preparation(teacher) if self.preparing else self.comparison(student, teacher)
