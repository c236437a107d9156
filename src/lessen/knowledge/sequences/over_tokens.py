"""Any objective on vectors, at every token of a sequence that counts.

Kim & Rush, Sequence-level knowledge distillation, EMNLP 2016, arXiv:1606.07947, section 3.1 (word-level); with any
divergence: Agarwal et al., GKD, ICLR 2024, arXiv:2306.13649.

Shapes: N sequences, L positions, V vocabulary entries (or features), M tokens that count.

Labels are aligned with tokens, as in transformers: the label of a position is the token at this position, or -100 if it
does not count (padding, the prompt). A causal network predicts at position l the token at l + 1; so with `shift` its
logits at l are compared where the label of l + 1 counts, and its last logits never.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from lessen.core import Card, Objective, ObjectiveInput, settings
from lessen.core.data import IGNORED
from lessen.core.errors import DataError
from lessen.functional.shapes import mismatch, wide
from lessen.knowledge.logits.soft_targets import SoftTargets


def counted(labels_NL: Tensor, *, shift: bool) -> Tensor:
    """The positions at which the output of a network counts: shape (N, L), bool.

    Args:
        labels_NL: Tokens, -100 where they do not count; or a mask of those that do, as bool.
        shift: Whether the output at a position is about the next token.

    Raises:
        DataError: the labels are neither.

    >>> counted(torch.tensor([[5, -100, 7, 8, -100]]), shift=True)
    tensor([[False,  True,  True, False, False]])
    """
    if labels_NL.is_floating_point() or labels_NL.ndim != 2:
        raise DataError(
            "Labels of tokens are integers of shape (N, L), or a mask of bool, but these are "
            f"{labels_NL.dtype} of shape {tuple(labels_NL.shape)}. Mixed sequences have no such labels: leave the "
            "mixing out."
        )
    counts_NL = labels_NL if labels_NL.dtype == torch.bool else labels_NL != IGNORED
    if not shift:
        return counts_NL
    return torch.cat([counts_NL[:, 1:], torch.zeros_like(counts_NL[:, :1])], 1)


def per_sequence(loss_M: Tensor, counts_NL: Tensor, *, tokens: float | None = None) -> Tensor:
    """The losses of the tokens that count, in their order, to one loss a sequence, shape (N,).

    Args:
        loss_M: Of the tokens that count, row by row.
        counts_NL: Which they are.
        tokens: What the sum is divided by. None: how many tokens of the sequence count; with none the loss is 0.
    """
    sum_N = loss_M.new_zeros(counts_NL.shape).masked_scatter(counts_NL, loss_M).sum(1)
    return sum_N / (counts_NL.sum(1).clamp_min(1) if tokens is None else tokens)


@settings
class OverTokens:
    """Apply an objective at every token that counts. The labels, or a mask in their place, say which tokens count.

    The edge may come from a network (soft targets, and whatever else compares outputs), or from the labels
    (`OverTokens(objective=CrossEntropy())`). Tokens that do not count are not computed, whatever their values.

    Args:
        objective: `(M, V)` against `(M, V)`, or against the labels of the tokens, `(M,)`.
        shift: Whether the output at a position predicts the next token, as in a causal language model.
        vocabulary_last: Whether outputs are (N, L, V); else (N, V, L).
        vocabulary: The number of shared tokens, if the rest of an output is padding. None: all.
        tokens: None: the mean over the tokens of each sequence, so that every sequence counts alike. A number: the sum
            over tokens divided by it, so that every token counts the same in any batch; give the mean number of tokens
            that count in a sequence of the training data.
    """

    objective: Objective = SoftTargets(temperature=1.0)
    shift: bool = True
    vocabulary_last: bool = True
    vocabulary: Annotated[int, Field(ge=1)] | None = None
    tokens: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    card: ClassVar[Card] = Card(
        row="knowledge / sequences",
        paper="arXiv:1606.07947; arXiv:2306.13649",
        says="At each token the student learns the teacher's whole distribution over the next.",
        costs="Nothing in the shipped model; the teacher's logits over the vocabulary at every token that counts.",
        fails_when="The vocabularies differ. When the student generates, it meets sequences that neither the data nor "
        "the teacher would produce (train it on its own sequences: OnPolicy).",
        differs="Divided by the number of tokens of each sequence, or by a constant; not by that of the batch, which "
        "changes with its parts. Released code divides by the latter, by all positions, or not at all.",
    )

    @model_validator(mode="after")
    def _without_state(self) -> Self:
        if isinstance(self.objective, nn.Module):
            raise ValueError("objective is a module; OverTokens takes only objectives without state")
        return self

    @property
    def relational(self) -> bool:
        """Whether the objective compares tokens with each other, which may be of several sequences."""
        return bool(getattr(self.objective, "relational", False))

    @property
    def needs(self) -> tuple[ObjectiveInput, ...]:
        """The labels, and what else the objective needs."""
        asked = tuple(getattr(self.objective, "needs", ()))
        return (ObjectiveInput.LABELS, *(what for what in asked if what is not ObjectiveInput.LABELS))

    def during(self, progress: float) -> OverTokens:
        """With the objective as it is at this progress of the stage."""
        during = getattr(self.objective, "during", None)
        return self if during is None else dataclasses.replace(self, objective=during(progress))

    def __call__(self, student: Tensor, teacher: Any, /) -> Tensor:
        source, labels_NL, *index_N = teacher
        student_NLV, source_NLV = (self._words_last(each) for each in (student, source))
        self._check(student, source, student_NLV, source_NLV, labels_NL)
        # Where labels are the teacher, they decide themselves: they may be silent where others are not.
        counts_NL = counted(labels_NL if source.ndim == 3 else self._labels(source), shift=self.shift)
        wanted_NL = counts_NL.roll(1, 1) if self.shift else counts_NL
        given = source_NLV[counts_NL] if source_NLV.ndim == 3 else source_NLV[wanted_NL]
        more: list[Tensor] = []
        for what in getattr(self.objective, "needs", ()):
            if what is ObjectiveInput.LABELS:
                more.append(self._labels(labels_NL)[wanted_NL])
            else:
                more.append(index_N[0][counts_NL.nonzero()[:, 0]])
        loss_M = self.objective(wide(student_NLV[counts_NL]), (given, *more) if more else given)
        return per_sequence(loss_M, counts_NL, tokens=self.tokens).to(student.dtype)

    def _words_last(self, output: Tensor) -> Tensor:
        if output.ndim != 3:
            return output
        return (output if self.vocabulary_last else output.transpose(1, 2))[..., : self.vocabulary]

    def _labels(self, labels_NL: Tensor) -> Tensor:
        if labels_NL.dtype == torch.bool:
            raise DataError(
                f"{type(self.objective).__name__} needs the labels of the tokens, but the data has a mask instead. "
                "Give the tokens themselves, with -100 where they do not count."
            )
        return labels_NL

    def _check(
        self, student: Tensor, source: Tensor, student_NLV: Tensor, source_NLV: Tensor, labels_NL: Tensor
    ) -> None:
        axes = "(N, L, V)" if self.vocabulary_last else "(N, V, L)"
        sequences = student_NLV.shape[:2]
        of_labels = source.ndim == 2 and not source.is_floating_point()
        if student.ndim != 3 or not (of_labels or source.ndim == 3) or source_NLV.shape[:2] != sequences:
            raise mismatch(
                student, source, what="OverTokens", expected=f"outputs of shape {axes} of the same sequences"
            )
        if labels_NL.shape != sequences:
            raise mismatch(student, labels_NL, what="OverTokens", expected=f"a label for each position of {axes}")
        if source.ndim == 3 and student_NLV.shape[2] != source_NLV.shape[2]:
            raise mismatch(
                student,
                source,
                what="OverTokens",
                expected="the same vocabulary on both sides",
                advice="Comparing token by token needs one tokenizer. If it is the same and one output is only padded "
                "to a round size, set `vocabulary` to the number of shared tokens; otherwise distil from text "
                "that the teacher generates. Features of different width need a bridge.",
            )
