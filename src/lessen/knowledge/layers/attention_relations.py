"""Relations between tokens: which tokens attend to which, and which values are similar.

MiniLM: Wang et al., MiniLM: deep self-attention distillation, NeurIPS 2020, arXiv:2002.10957, section 3.
MiniLM v2: Wang et al., MiniLMv2: multi-head self-attention relation distillation, Findings of ACL 2021,
arXiv:2012.15828, section 3.

Shapes: N examples, T tokens, C features per token, H heads.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.knowledge.axes.divergences import Divergence, ForwardKL
from lessen.knowledge.layers.heads import projections, relation_loss, words_apart

_ROW = "knowledge / between layers"
_COSTS = "Nothing in the shipped model; heads x tokens x tokens values per example, step and relation."
_FAILS = (
    "The layer is far from the last one. Sequences are padded and `padding` is not set: padding then counts like any "
    "token."
)


@settings
class AttentionRelations:
    """Match the attention of tokens (queries with keys), and the relation of values with values; the two are added.

    Taps queries, keys and values, as `at(taps("...query", "...key", "...value"), ...)`, or the one layer that makes
    them; `lessen.knowledge.layers.heads` says where they are in known networks. Widths are free.

    Args:
        heads: How many heads the projections have: the same number in both networks. If these differ, use
            `SelfRelations`, or give a number that divides both widths, and heads are split again.
        divergence: How two rows are compared.
        padding: The token id of padding; the teacher's taps then end with the token ids.
            None: every token counts.
    """

    heads: Annotated[int, Field(ge=1)] = 4
    divergence: Divergence = ForwardKL()
    padding: int | None = None

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="MiniLM, arXiv:2002.10957",
        says="Mean over heads and tokens of KL(teacher's attention || student's), plus the same of values with values.",
        costs=_COSTS,
        fails_when=_FAILS,
        differs="Attention without position bias or causal mask; divided by the number of tokens of each example.",
    )

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        teacher, words_NT = words_apart(teacher, what="AttentionRelations", padding=self.padding)
        sides = projections(student, teacher, what="AttentionRelations", heads=self.heads, counts=(3,))
        attention = [(queries, keys) for queries, keys, _ in sides]
        values = [(values, values) for *_, values in sides]
        how: dict[str, Any] = {"heads": self.heads, "divergence": self.divergence, "words_NT": words_NT}
        losses = [relation_loss(*two, **how) for two in (attention, values)]
        return torch.stack(losses).sum(0).to(sides[0][0].dtype)


@settings
class SelfRelations:
    """Match how queries relate to queries, keys to keys and values to values; the relations are added.

    Taps any of the three, as `at(taps("...query", "...key", "...value"), ...)`, or the one layer that makes them;
    `lessen.knowledge.layers.heads` says where they are in known networks. Widths and the networks' own heads are free.

    Args:
        heads: Into how many heads the projections of both networks are split; must divide both widths. More heads are
            more, narrower relations; the paper takes 48 for a teacher 768 wide.
        divergence: How two rows are compared.
        padding: The token id of padding; the teacher's taps then end with the token ids.
            None: every token counts.
    """

    heads: Annotated[int, Field(ge=1)] = 4
    divergence: Divergence = ForwardKL()
    padding: int | None = None

    card: ClassVar[Card] = Card(
        row=_ROW,
        paper="MiniLM v2, arXiv:2012.15828",
        says="Sum over queries, keys and values of the mean over heads and tokens of KL(teacher's row || student's).",
        costs=_COSTS,
        fails_when=_FAILS,
        differs="Attention without position bias or causal mask; divided by the number of tokens of each example.",
    )

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        teacher, words_NT = words_apart(teacher, what="SelfRelations", padding=self.padding)
        sides = projections(student, teacher, what="SelfRelations", heads=self.heads, counts=(3, 2, 1))
        how: dict[str, Any] = {"heads": self.heads, "divergence": self.divergence, "words_NT": words_NT}
        losses = [relation_loss((s, s), (t, t), **how) for s, t in zip(*sides, strict=True)]
        return torch.stack(losses).sum(0).to(sides[0][0].dtype)
