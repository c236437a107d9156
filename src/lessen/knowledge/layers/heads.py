"""Queries, keys and values of a transformer, from taps; and how tokens relate by them.

Where to tap: the layers that project tokens to queries, keys and values; their outputs are (N, T, C), heads side by
side. Several layers are named together, `taps("...query", "...key", "...value")`; one layer that makes all three side
by side is named alone, and its output is cut in three.

    lessen.zoo.transformer    blocks.3.attention.query (.key, .value); with fused=True blocks.3.attention.qkv
    timm                      blocks.3.attn.qkv
    transformers, BERT        encoder.layer.3.attention.self.query (.key, .value); MiniLM is a BERT
    transformers, LLaMA       model.layers.3.self_attn.q_proj (.k_proj, .v_proj), before positions are turned in

`nn.MultiheadAttention` projects inside one function, which no tap reaches. Where keys and values have fewer heads than
queries (grouped queries), queries and keys cannot be related without the network's own rule; each with itself can.

Padding: the teacher's taps may end with the token ids, (N, T), which are the input of its token embedding:
`Tap(path="embeddings.word_embeddings", side="input")` in a BERT. The id of padding is a setting of the objective.

Shapes: N examples, T tokens, C features per token, H heads, D = C / H features per head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lessen.core.errors import ShapeError
from lessen.functional.pairs import full_precision
from lessen.functional.shapes import wide
from lessen.knowledge.axes.divergences import Divergence
from lessen.knowledge.logits.soft_targets import soft_targets
from lessen.surgery.values import leaves, shapes_of


def words_apart(teacher: Any, *, what: str, padding: int | None) -> tuple[Any, Tensor | None]:
    """The teacher's projections, and which tokens are not padding: True or False, (N, T); None if padding is not known.

    Args:
        teacher: Its taps; with `padding`, a tuple that ends with the token ids. A single remaining tap holds queries,
            keys and values.
        what: Who asks, for the error.
        padding: The token id of padding, or None.

    Raises:
        ShapeError: the token ids are missing.
    """
    if padding is None:
        return teacher, None
    words = teacher[-1] if isinstance(teacher, tuple) and len(teacher) > 1 else None
    if words is None or words.ndim != 2 or words.is_floating_point():
        raise ShapeError(
            f"{what} has a padding token, so the teacher's taps must end with the token ids, integers of shape (N, T), "
            f"but they are {shapes_of(teacher)}. Add Tap(path=..., side='input') of its token embedding."
        )
    rest = teacher[:-1]
    return rest[0] if len(rest) == 1 else rest, words != padding


def projections(
    student: Any, teacher: Any, *, what: str, heads: int, counts: Sequence[int]
) -> list[tuple[Tensor, ...]]:
    """The projections of both sides, after a check that they fit.

    Args:
        student: A tuple of tensors (N, T, C), or one tensor (N, T, 3 * C) of queries, keys and values side by side.
        teacher: The same, in either form; its width is free.
        what: Who asks, for the error.
        heads: How many heads each is split into.
        counts: How many projections per side may have.

    Raises:
        ShapeError: they do not fit; the text names all shapes.
    """
    shown = " and the teacher ".join(str(shapes_of(side)) for side in (student, teacher))
    every = list(leaves((student, teacher)))
    if any(tap.ndim != 3 or tap.shape[:2] != every[0].shape[:2] for tap in every):
        raise ShapeError(f"{what} needs tokens (N, T, C), N and T the same for all, but the student has {shown}.")
    sides = []
    for side in (student, teacher):
        # A layer that makes all three is tapped whole, also where fewer are compared.
        parts = side.chunk(3, dim=2)[: max(counts)] if isinstance(side, Tensor) else tuple(side)
        if isinstance(side, Tensor) and side.shape[2] % (3 * heads):
            raise ShapeError(
                f"{what} got one tap, which must hold queries, keys and values, so 3 times {heads} heads must divide "
                f"its last axis, but the student has {shown}. Name several as taps('query', 'key', 'value')."
            )
        if any(part.shape[2] % heads for part in parts):
            raise ShapeError(f"{what} has {heads} heads, which must divide the last axis, but the student has {shown}.")
        sides.append(parts)
    if len(sides[0]) != len(sides[1]) or len(sides[0]) not in counts:
        wanted = " or ".join(map(str, counts))
        raise ShapeError(
            f"{what} needs {wanted} projections per side, as many on both, but the student has {shown}. Name them as "
            "taps('query', 'key'), or name the one layer that makes queries, keys and values."
        )
    return sides


def relation(queries_NTC: Tensor, keys_NTC: Tensor, *, heads: int) -> Tensor:
    """Scaled products of all pairs of tokens in each head, before any softmax: (N, H, T, T), a query's row on axis 2.

    >>> import torch
    >>> relation(torch.ones(1, 2, 4), torch.ones(1, 2, 4), heads=1)
    tensor([[[[2., 2.],
              [2., 2.]]]])
    """
    queries_NHTD, keys_NHTD = (
        wide(tokens).unflatten(2, (heads, -1)).transpose(1, 2) for tokens in (queries_NTC, keys_NTC)
    )
    with full_precision(queries_NHTD):
        products: Tensor = queries_NHTD @ keys_NHTD.transpose(2, 3)
    return products / math.sqrt(queries_NHTD.shape[3])


def relation_loss(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    *,
    heads: int,
    divergence: Divergence,
    words_NT: Tensor | None = None,
) -> Tensor:
    """The divergence of what a token attends to, averaged over heads and tokens: shape (N,), in nat.

    These are soft targets at a temperature of 1, with the tokens that are attended to for classes. If padding is known,
    it is not attended to, and the mean is over the other tokens.
    """
    logits = [relation(*pair, heads=heads) for pair in (student, teacher)]
    if words_NT is not None:
        logits = [_without_padding(side_NHTT, words_NT) for side_NHTT in logits]
    losses = soft_targets(*(side.flatten(0, 2) for side in logits), temperature=1.0, divergence=divergence)
    losses_NHT = losses.view(logits[0].shape[:3])
    if words_NT is None:
        return losses_NHT.mean((1, 2))
    return (losses_NHT.mean(1) * words_NT).sum(1) / words_NT.sum(1).clamp(min=1)


def _without_padding(logits_NHTT: Tensor, words_NT: Tensor) -> Tensor:
    """The logits with padding so far below all of its row that its probability is 0, and its logarithm finite."""
    below = logits_NHTT.detach().amin(3, keepdim=True) - 1e4
    return torch.where(words_NT[:, None, None, :], logits_NHTT, below)
