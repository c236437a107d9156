"""Logit matching: regress on the teacher's outputs before the softmax.

Ba & Caruana, Do deep nets really need to be deep?, NeurIPS 2014, arXiv:1312.6184, section 2.2.
Kim et al., Comparing Kullback-Leibler divergence and mean squared error loss in knowledge distillation, IJCAI 2021,
arXiv:2105.08919.

Shapes: N examples, C classes; further axes are treated as more outputs.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.distances import cosine
from lessen.functional.shapes import require_same, wide


def half_squared_norm(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared length of the difference, summed over classes, not averaged: shape (N,).

    >>> import torch
    >>> half_squared_norm(torch.tensor([[1.0, 3.0]]), torch.zeros(1, 2))
    tensor([5.])
    """
    return (student - teacher).flatten(1).square().sum(1) / 2


@settings
class LogitMatching:
    """Half the squared distance between logits, summed over classes."""

    card: ClassVar[Card] = Card(
        row="knowledge / logits",
        paper="arXiv:1312.6184; arXiv:2105.08919",
        says="The student's logits are the teacher's, their common offset included.",
        costs="Nothing in the shipped model; one forward pass of the teacher per step, or a cache of its logits.",
        fails_when="The teacher's logits are large: a small student spends its capacity on their size. In float16 the "
        "sum overflows beyond 65504; use float32 taps then.",
        differs="Summed over classes and halved, as in the papers; much code averages over classes too.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="LogitMatching", least=2)
        return half_squared_norm(wide(student), wide(teacher)).to(student.dtype)


@settings
class LogitCosine:
    """1 - cosine of the angle between the logits of student and teacher."""

    card: ClassVar[Card] = Card(
        row="knowledge / logits",
        paper="arXiv:2105.08919",
        says="The student's logits point where the teacher's do; their length is free.",
        costs="Nothing in the shipped model; one forward pass of the teacher per step, or a cache of its logits.",
        fails_when="Calibration matters: confidence is not taught.",
    )

    def __call__(self, student: Tensor, teacher: Tensor, /) -> Tensor:
        require_same(student, teacher, what="LogitCosine", least=2)
        return cosine(wide(student), wide(teacher)).to(student.dtype)
