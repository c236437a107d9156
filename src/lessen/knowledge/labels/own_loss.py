"""Any function as an objective.

Shapes: N examples.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from lessen.core import Card
from lessen.core.contracts import LearnedObjective, Objective
from lessen.core.errors import GraphError


@dataclass(frozen=True)
class OwnLoss:
    """A function of the user's, or a loss of torch.nn, as an objective.

    Args:
        function: `(student, teacher) -> Tensor`; its result is averaged over all axes but the first.
    """

    function: Callable[[Any, Any], Any]

    card: ClassVar[Card] = Card(
        row="knowledge / your own",
        paper="yours",
        says="Whatever the function says.",
        costs="What the function costs.",
        fails_when="It averages over the batch: an objective gives one loss for each example.",
    )

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        loss = self.function(student, teacher)
        name = getattr(self.function, "__name__", type(self.function).__name__)
        if not isinstance(loss, Tensor):
            raise GraphError(
                f"The loss {name} returned a {type(loss).__name__}; expected a tensor with one value for each example."
            )
        if loss.ndim == 0:
            raise GraphError(
                f"The loss {name} returned one number for the whole batch; expected one for each example, shape (N,). "
                "Average over the other axes only, as ((student - teacher) ** 2).flatten(1).mean(1); losses of torch "
                "do this with reduction='none'."
            )
        return loss.flatten(1).mean(1) if loss.ndim > 1 else loss


def as_objective(what: Any) -> Any:
    """An objective as it is; any other function, and any loss of torch.nn, as an `OwnLoss`.

    Losses of torch that have a `reduction` are computed without one.
    """
    if isinstance(what, type | Objective | LearnedObjective) or not callable(what):
        return what
    if hasattr(what, "objective_for"):
        return what
    if isinstance(what, nn.Module):
        if next(what.parameters(), None) is not None:
            return what  # it learns, so it is the edge's own module
        if hasattr(what, "reduction"):
            what = copy.copy(what)
            what.reduction = "none"
        return OwnLoss(what)
    try:
        parameters = inspect.signature(what).parameters
    except (TypeError, ValueError):
        return OwnLoss(what)
    if "reduction" in parameters:
        what = functools.partial(what, reduction="none")
    return OwnLoss(what)
