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
        says="The extra surprise (in nats) of the student, compared with the teacher, on classes drawn from the "
        "teacher.",
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
        says="The extra surprise (in nats) of the teacher, compared with the student, on classes drawn from the "
        "student.",
        costs="One pass over the logits.",
        fails_when="All of the teacher's alternatives matter: the student settles on one of them.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.reverse_kl(student_log_NC, teacher_log_NC)


@settings
class JensenShannon:
    """KL of both distributions to their mixture. With a share of one half it is symmetric and at most log 2.

    Args:
        share: The teacher's share of the mixture. Strictly between 0 and 1, because the value vanishes at both ends;
            with `normalize` the ends are allowed.
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
        "`normalize`, which keeps the scale continuous.",
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


@settings
class SkewedForwardKL:
    """KL(teacher || mixture of both): bounded even where the student gives a class zero probability.

    Args:
        share: The teacher's share of the mixture, below 1; 0 is forward KL.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.1

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Lee 1999; in distillation DistiLLM, arXiv:2402.03898",
        says="Forward KL whose gradient does not explode where the student finds the teacher's class impossible.",
        costs="Two passes over the logits.",
        fails_when="The share is large: the mixture agrees with the teacher before the student does.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.skewed_kl(student_log_NC, teacher_log_NC, share=self.share)


@settings
class SkewedReverseKL:
    """KL(student || mixture of both): bounded even where the teacher gives a class zero probability.

    Args:
        share: The student's share of the mixture, below 1; 0 is reverse KL.
    """

    share: Annotated[float, Field(ge=0, lt=1)] = 0.1

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Lee 1999; in distillation DistiLLM, arXiv:2402.03898",
        says="Reverse KL that does not explode where the teacher finds the student's class impossible.",
        costs="Two passes over the logits.",
        fails_when="All of the teacher's alternatives matter: the student settles on some of them.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.skewed_kl(teacher_log_NC, student_log_NC, share=self.share)


@settings
class Renyi:
    """Renyi's divergence: a small order seeks modes, a large order covers all that the teacher finds likely.

    Args:
        order: 1 is forward KL; 1 / 2 is symmetric. 0, where the value vanishes, needs `normalize`.
        normalize: Divide by the order, so that 0 is reverse KL without a jump.
    """

    order: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    normalize: bool = False

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Renyi 1961; van Erven & Harremoes 2014, arXiv:1206.2459",
        says="log(sum of teacher^a student^(1 - a)) / (a - 1), where a is the order.",
        costs="One pass over the logits.",
        fails_when="The order is far above 1: a single class that the student misses dominates. Within 0.001 of 1, or "
        "of 0 with `normalize`, float32 leaves only three correct digits.",
    )

    @model_validator(mode="after")
    def _ends(self) -> Renyi:
        if self.order == 0 and not self.normalize:
            raise ValueError(
                "at order 0 the divergence is zero whatever the student does; set normalize=True, or use ReverseKL"
            )
        return self

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.renyi(student_log_NC, teacher_log_NC, order=self.order, normalize=self.normalize)


@settings
class Hellinger:
    """The squared Hellinger distance: symmetric, and between 0 and 1."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="Hellinger 1909",
        says="Half the sum of squared differences of the square roots of probabilities.",
        costs="One pass over the logits.",
        fails_when="Student and teacher are sure of different classes: it is near its bound, where its gradient is "
        "small.",
        differs="Squared, so that it is smooth at equality.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.hellinger(student_log_NC, teacher_log_NC)


@settings
class ProbabilityCosine:
    """1 - cosine of the angle between the vectors of probabilities."""

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="DistilBERT, arXiv:1910.01108 (there of hidden states)",
        says="The probabilities of student and teacher point the same way.",
        costs="One pass over the logits.",
        fails_when="The teacher's small probabilities matter: the largest ones determine the angle.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.probability_cosine(student_log_NC, teacher_log_NC)


@settings
class ProbabilityCorrelation:
    """1 - Pearson's correlation over classes: the order and relative spacing count; scale and offset do not.

    `CorrelationMatching` also compares columns (a class over the batch).
    """

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="DIST, arXiv:2205.10536",
        says="The student's probabilities are the teacher's up to a positive factor and an offset.",
        costs="One pass over the logits.",
        fails_when="A distribution is uniform: its correlation is undefined, and the value is 1 whatever the other "
        "distribution is. It can also be zero for unequal distributions, as for two classes at another temperature.",
    )

    def __call__(self, student_log_NC: Tensor, teacher_log_NC: Tensor, /) -> Tensor:
        return functional.probability_correlation(student_log_NC, teacher_log_NC)
