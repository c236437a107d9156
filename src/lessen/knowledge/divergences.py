"""Which divergence a loss on distributions uses: an axis of its own, so that every such loss can be had with each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Protocol, runtime_checkable

from pydantic import Field, model_validator
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional import divergences as functional

_ROW = "knowledge / divergences"


@runtime_checkable
class Divergence(Protocol):
    """From log-probabilities of student and teacher, (N, C, ...), to (N, ...); zero if they agree, never negative."""

    card: ClassVar[Card]

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor: ...


@settings
class ForwardKL:
    """KL(teacher || student): the student must cover all that the teacher finds possible."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Kullback & Leibler 1951; in distillation arXiv:1503.02531",
        says="The student's surprise at what the teacher expects, beyond the teacher's own.",
        costs="One pass over the logits.",
        fails_when="The student cannot cover the teacher: it spreads over what the teacher finds unlikely.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.forward_kl(student_log_NC, teacher_log_NC)


@settings
class ReverseKL:
    """KL(student || teacher): the student must stay where the teacher is likely; it may leave modes out."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Kullback & Leibler 1951; in distillation MiniLLM, arXiv:2306.08543",
        says="The teacher's surprise at what the student expects, beyond the student's own.",
        costs="One pass over the logits.",
        fails_when="All of the teacher's alternatives matter: the student settles on one of them.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.reverse_kl(student_log_NC, teacher_log_NC)


@settings
class JensenShannon:
    """Both against their mixture; symmetric at a share of one half, and never above log 2 there.

    Args:
        share: The teacher's share of the mixture. Strictly between 0 and 1, where the value would vanish,
            unless `normalize` is set.
        normalize: Divide by share * (1 - share), so that the ends are forward (0) and reverse (1) KL without a jump.
    """

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    normalize: bool = False

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Lin 1991; in distillation GKD, arXiv:2306.13649",
        says="share KL(teacher || mixture) + (1 - share) KL(student || mixture), mixed as probabilities.",
        costs="Two passes over the logits.",
        fails_when="The share is near an end: without `normalize` the loss, and its gradient, vanish there; with it, "
        "rounding errors grow as 1 / share (keep 0.01 to 0.99 in 32 bits).",
        differs="GKD defines the ends as forward and reverse KL, which makes the scale jump; here the ends need "
        "`normalize`, and then nothing jumps.",
    )

    @model_validator(mode="after")
    def _ends(self) -> JensenShannon:
        if self.share in (0, 1) and not self.normalize:
            raise ValueError(
                "at a share of 0 or 1 the divergence is zero whatever the student does; "
                "set normalize=True there, or use ForwardKL or ReverseKL"
            )
        return self

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.jensen_shannon(student_log_NC, teacher_log_NC, share=self.share, normalize=self.normalize)


@settings
class TotalVariation:
    """Half the absolute difference of the probabilities: bounded, so no single class can dominate."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Levin & Peres, Markov chains and mixing times, section 4.1",
        says="The largest difference in probability that the two give to any set of classes.",
        costs="One pass over the logits.",
        fails_when="Student and teacher are sure of different classes: the gradient through the softmax vanishes.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.total_variation(student_log_NC, teacher_log_NC)
