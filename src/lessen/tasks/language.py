"""The next token of a text, and masked tokens.

Shapes: N texts, L positions, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from lessen.core.data import IGNORED
from lessen.core.errors import ShapeError
from lessen.core.settings import settings
from lessen.core.task import Meaning, Metric, Rows
from lessen.tasks.metrics import ratio, resampled_metric


@settings
class Language:
    """The next token: outputs (N, L, V) are logits, labels (N, L) are the tokens themselves, -100 where none counts.

    Args:
        shift: Whether the output at a position is about the next token (causal), or about this one (masked).
    """

    shift: bool = True

    name: ClassVar[str] = "language"
    meaning: ClassVar[Meaning] = Meaning.CLASSES
    class_axis: ClassVar[int] = -1

    @cached_property
    def metrics(self) -> Sequence[Metric]:
        """Perplexity, the likelihood of a token, and the share of tokens that the largest logit names."""
        return (
            resampled_metric("perplexity", "1", _perplexity, higher_is_better=False),
            resampled_metric("nll", "nat", lambda rows: _each(rows, "nll"), higher_is_better=False),
            resampled_metric("accuracy", "%", lambda rows: 100 * _each(rows, "right"), higher_is_better=True),
        )

    def check(self, outputs: Tensor, labels: Tensor) -> None:
        """Check outputs against labels.

        Raises:
            ShapeError: they are not logits and tokens of the same positions.
        """
        if outputs.ndim != 3 or labels.is_floating_point() or labels.shape != outputs.shape[:2]:
            raise ShapeError(
                f"The task is language, so outputs (N, L, vocabulary) and token numbers (N, L) were expected, but the "
                f"network returns {tuple(outputs.shape)} and the labels are "
                f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}."
            )

    def aligned(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and the tokens they are about: shapes (N, L, V) and (N, L), L one less with `shift`."""
        return (outputs[:, :-1], labels[:, 1:]) if self.shift else (outputs, labels)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy, averaged over the tokens that count: shape (N,)."""
        sums, counts = self._nll(outputs, labels)
        return sums / counts.clamp_min(1)

    def _nll(self, outputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        logits, tokens = self.aligned(outputs, labels)
        each = F.cross_entropy(logits.transpose(1, 2), tokens.long(), reduction="none", ignore_index=IGNORED)
        return each.sum(1), (tokens != IGNORED).sum(1)

    def rows(self, outputs: Tensor, labels: Tensor) -> Rows:
        """For each text the tokens that count, those that are right, and the sum of their likelihoods."""
        self.check(outputs, labels)
        logits, tokens = self.aligned(outputs, labels)
        nll, counted = self._nll(outputs.float(), labels)
        right = (logits.argmax(-1) == tokens) & (tokens != IGNORED)
        return {"nll": nll.double(), "counted": counted, "right": right.sum(1)}


def _each(rows: Rows, name: str) -> float:
    return ratio(rows[name].sum()[None], rows["counted"].sum()[None])


def _perplexity(rows: Rows) -> float:
    return math.exp(min(_each(rows, "nll"), 700.0))


def labels_are_inputs(inputs: object, labels: Tensor, *, ahead: int = 0) -> bool:
    """Whether labels are the tokens that the network reads, as those of a causal language model are.

    Args:
        inputs: Of the first examples, or None.
        labels: Of these and maybe more examples, shape (N, L).
        ahead: By how many positions the labels are ahead: 1 where the label at a position is already the next token.
    """
    values = inputs.values() if isinstance(inputs, dict) else inputs if isinstance(inputs, tuple) else (inputs,)
    for value in values:
        if not isinstance(value, Tensor) or value.is_floating_point() or value.shape[1:] != labels.shape[1:]:
            continue
        length = labels.shape[1] - ahead
        truth, read = labels[: len(value), :length], value[:, ahead:]
        counts = truth != IGNORED
        if bool(counts.any()) and torch.equal(read[counts].long(), truth[counts].long()):
            return True
    return False
