"""Gates: which examples of an edge count, and how much.

Minami et al., Knowledge Transfer Graph for Deep Collaborative Learning, ACCV 2020, arXiv:1909.04286, section 3.3.

A gate is one of two things. With `at(progress)` it is one number for all examples. As a callable it gets, without
gradient, the losses (N,), the labels (N, ...) or None, the output of the source (None where the edge has none) and the
output of the target, and gives weights of shape (N,). Either way the sum is divided by all N examples, not by those
that count.

A set gate belongs to the graph, and edges name it. It gets the losses of all edges that name it and count at this step,
without gradient, shape (E, N), in the order of the edges, and gives weights of that shape.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from lessen.core.errors import GraphError
from lessen.core.settings import settings
from lessen.optim.schedule import Schedule

ExampleGate = Callable[[Tensor, Tensor | None, Any, Any], Tensor]
Gate = Schedule | ExampleGate
SetGate = Callable[[Tensor], Tensor]


@settings
class Through:
    """Every example counts, always."""

    def at(self, progress: float, /) -> float:
        del progress
        return 1.0


@settings
class CutOff:
    """No example counts: the edge exists without effect."""

    def at(self, progress: float, /) -> float:
        del progress
        return 0.0


@settings
class Linear:
    """Every example counts as much as the stage has progressed: from 0 to 1."""

    def at(self, progress: float, /) -> float:
        return progress


@settings
class Correct:
    """Only examples that the source classifies correctly count: its largest output is at the label.

    >>> import torch
    >>> Correct()(torch.ones(2), torch.tensor([1, 1]), torch.tensor([[0.0, 2.0], [2.0, 0.0]]), None)
    tensor([1., 0.])
    """

    def __call__(self, losses_N: Tensor, labels_N: Tensor | None, source_NC: Tensor | None, target: Any, /) -> Tensor:
        del target
        if labels_N is None or labels_N.is_floating_point() or source_NC is None or source_NC.ndim != labels_N.ndim + 1:
            raise GraphError(
                "The gate Correct needs class indices as labels and a source that gives one score per class."
            )
        return (source_NC.argmax(1) == labels_N).to(losses_N.dtype)


@settings
class SmallestLoss:
    """Of several edges, the one with the smallest loss counts, for each example by itself; of equal ones the first.

    >>> import torch
    >>> SmallestLoss()(torch.tensor([[1.0, 5.0], [2.0, 3.0]]))
    tensor([[1., 0.],
            [0., 1.]])
    """

    def __call__(self, losses_EN: Tensor, /) -> Tensor:
        return torch.zeros_like(losses_EN).scatter_(0, losses_EN.argmin(0, keepdim=True), 1)


@settings
class SoftmaxOfLosses:
    """The smaller the loss of an edge, the more it counts: the softmax of the negative losses, example by example.

    Args:
        temperature: Divides the losses; a small one comes close to `SmallestLoss`, a large one to the mean.
    """

    temperature: Annotated[float, Field(gt=0)] = 1.0

    def __call__(self, losses_EN: Tensor, /) -> Tensor:
        return (-losses_EN / self.temperature).softmax(0)
