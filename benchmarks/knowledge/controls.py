"""Controls that are no methods: what soft targets would be if the teacher did not know how classes are alike."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from lessen.core import Card, settings
from lessen.core.contracts import ObjectiveInput
from lessen.core.seeds import uniforms
from lessen.knowledge import SoftTargets


def permuted(logits_NC: Tensor, kept_N: Tensor, uniforms_NC: Tensor) -> Tensor:
    """The logits with those of all classes but the kept one in a random order, the same for an example each time.

    >>> said = permuted(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]), torch.tensor([[0.1, 0.9, 0.2]]))
    >>> said
    tensor([[3., 2., 1.]])
    """
    kept_N1 = kept_N.unsqueeze(1)
    # The kept class stands first in both orders, so it stays where it is.
    old_NC = (
        uniforms_NC.new_tensor(range(logits_NC.shape[1])).expand_as(uniforms_NC).scatter(1, kept_N1, -1.0).argsort(1)
    )
    new_NC = uniforms_NC.scatter(1, kept_N1, -1.0).argsort(1)
    return torch.empty_like(logits_NC).scatter(1, new_NC, logits_NC.gather(1, old_NC))


@settings
class Shuffled:
    """Soft targets with the teacher's probabilities of all classes but its first permuted, once for each example."""

    soft: SoftTargets = SoftTargets()

    needs: ClassVar[tuple[ObjectiveInput, ...]] = (ObjectiveInput.INDEX,)
    card: ClassVar[Card] = Card(
        row="controls",
        paper="Furlanello et al., arXiv:1805.04770 (dark knowledge with permuted predictions)",
        says="Soft targets that know how sure the teacher is, and not which classes are alike.",
        costs="As soft targets.",
        fails_when="Always: it is there to be beaten.",
    )

    def __call__(self, student: Tensor, teacher: tuple[Tensor, Tensor], /) -> Tensor:
        logits_NC, index_N = teacher
        drawn_NC = uniforms(index_N, logits_NC.shape[1], seed=0).to(logits_NC.device)
        return self.soft(student, permuted(logits_NC, logits_NC.argmax(1), drawn_NC))
