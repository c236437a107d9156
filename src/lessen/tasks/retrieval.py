"""Features by which examples of one group are found again.

Shapes: N examples, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.errors import DataError, ShapeError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows
from lessen.tasks.metrics import mean_metric, share_metric

MOST = 4096
"""Examples that are compared with each other, the first of the split."""


@settings
class Retrieval:
    """Features (N, D), compared by their cosine; labels (N,) are numbers of groups that belong together.

    Every example is a query, and all others are searched. There is no default loss on labels.

    Args:
        depth: Among how many nearest examples one of the same group must be.
    """

    depth: int = 1

    name: ClassVar[str] = "retrieval"
    meaning: ClassVar[Meaning] = Meaning.NUMBERS
    class_axis: ClassVar[int] = 1

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Recall among the nearest, and the mean average precision over queries."""
        return (
            share_metric(f"recall_at_{self.depth}", lambda rows: _found(rows, self.depth)),
            mean_metric("retrieval_precision", "%", _precision, higher_is_better=True),
        )

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError: they are not features and numbers of groups.
        """
        if outputs.ndim != 2 or labels.ndim != 1 or labels.is_floating_point():
            raise ShapeError(
                f"The task is retrieval, so outputs (N, D) and whole-number labels (N,) were expected, but the network "
                f"returns {tuple(outputs.shape)} and the labels are {tuple(labels.shape)}."
            )

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Refused.

        Raises:
            DataError: always.
        """
        raise DataError(
            "Retrieval has no usual loss on labels. Learn from the teacher alone (labels=0), or give your own, as "
            "offline(..., labels_objective=your_loss)."
        )

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """The features and groups themselves: figures compare examples with each other."""
        self.check(outputs, labels)
        return {"features": F.normalize(outputs.float(), dim=1), "groups": labels}


def _order(rows: Rows) -> tuple[Tensor, Tensor]:
    """For each query whether the others belong to it, nearest first, (M, M - 1); and whether any does, (M,)."""
    features, groups = rows["features"][:MOST], rows["groups"][:MOST]
    near = features @ features.T
    near.fill_diagonal_(-torch.inf)
    order = near.argsort(1, descending=True)[:, :-1]
    same = groups[order] == groups[:, None]
    return same, same.any(1)


def _found(rows: Rows, depth: int) -> Tensor:
    same, some = _order(rows)
    return same[some][:, :depth].any(1)


def _precision(rows: Rows) -> Tensor:
    same, some = _order(rows)
    same = same[some].double()
    precision = same.cumsum(1) / torch.arange(1, same.shape[1] + 1)
    return 100 * (precision * same).sum(1) / same.sum(1).clamp_min(1)
