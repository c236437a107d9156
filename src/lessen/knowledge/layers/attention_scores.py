"""Attention scores: a transformer's student attends as the teacher does, before the softmax.

Jiao et al., TinyBERT: distilling BERT for natural language understanding, Findings of EMNLP 2020, arXiv:1909.10351,
section 3.1. The other two of its losses are here too: hidden states and embeddings are `Hint()` with
`bridge=WidthBridge()`, which is its learned matrix, and its last is `SoftTargets`.

Shapes: N examples, T tokens, C features per token, H heads.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.knowledge.axes.distances import Distance, SquaredDistance
from lessen.knowledge.layers.heads import projections, relation, words_apart


@settings
class AttentionScores:
    """Match the scores of all pairs of tokens, query times key over the root of a head's width, head by head.

    Taps queries and keys, as `at(taps("...query", "...key"), ...)`, or the one layer that makes queries, keys and
    values; `lessen.knowledge.layers.heads` says where they are in known networks. Widths are free.

    Args:
        heads: How many heads the projections have: the same number in both networks, since each is matched with the
            head of the same index. If these differ, use `SelfRelations`.
        distance: How scores are compared. `SquaredDistance()` is the mean over heads and pairs of tokens.
        padding: The token id of padding; the teacher's taps then end with the token ids,
            and scores with padding are 0 on both sides. None: every token counts.
    """

    heads: Annotated[int, Field(ge=1)] = 4
    distance: Distance = SquaredDistance()
    padding: int | None = None

    card: ClassVar[Card] = Card(
        row="knowledge / between layers",
        paper="TinyBERT, arXiv:1909.10351",
        says="The student's attention scores, before the softmax, are the teacher's.",
        costs="Nothing in the shipped model; heads x tokens x tokens values per example and step.",
        fails_when="The networks have different numbers of heads. Sequences are padded and `padding` is not set: "
        "padding then counts like any token. In float16, scores that differ by more than 255 overflow; use "
        "float32 taps then.",
        differs="Scores have no position bias or causal mask. As in the authors' code, pairs with padding are 0 on "
        "both sides and stay in the mean, so an example of few tokens counts less.",
    )

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        teacher, words_NT = words_apart(teacher, what="AttentionScores", padding=self.padding)
        sides = projections(student, teacher, what="AttentionScores", heads=self.heads, counts=(2,))
        scores = [relation(queries, keys, heads=self.heads) for queries, keys in sides]
        if words_NT is not None:
            pairs_N1TT = (words_NT.unsqueeze(1) & words_NT.unsqueeze(2)).unsqueeze(1)
            scores = [side_NHTT * pairs_N1TT for side_NHTT in scores]
        return self.distance(*scores).to(sides[0][0].dtype)
