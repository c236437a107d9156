"""Going on with sequences: what a network would write, token by token.

Shapes: N sequences, L positions, V words.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def continue_sequences(
    next_logits: Callable[[Tensor], Tensor],
    tokens_NL: Tensor,
    start_N: Tensor,
    uniforms_NL: Tensor,
    *,
    temperature: float = 1.0,
    end: int | None = None,
    pad: int = 0,
) -> tuple[Tensor, Tensor]:
    """Replace the tokens from `start` on by what a network generates; `tokens_NL` is not changed.

    Args:
        next_logits: From tokens (N, l) to logits of the token behind them, (N, V). It is called once a position.
        tokens_NL: Whole numbers.
        start_N: Where each sequence is gone on with, at least 1; L leaves it as it is.
        uniforms_NL: In [0, 1), a number for each token: equal numbers write equal sequences, whatever else is written.
        temperature: Divides the logits; 0 takes the most probable word.
        end: The word that ends a sequence, and is still part of it; None: all go on to L.
        pad: The token that fills positions after the end.

    Returns:
        The tokens, (N, L), and which of them were written, (N, L), bool.

    >>> after = torch.eye(4)[[1, 2, 3, 0]] * 99  # each word is followed by the next
    >>> start, uniforms = torch.tensor([1, 2]), torch.rand(2, 4)
    >>> continue_sequences(lambda t: after[t[:, -1]], torch.zeros(2, 4, dtype=torch.long), start, uniforms)[0]
    tensor([[0, 1, 2, 3],
            [0, 0, 1, 2]])
    """
    tokens_NL = tokens_NL.clone()
    written_NL = torch.zeros_like(tokens_NL, dtype=torch.bool)
    going_N = torch.ones_like(start_N, dtype=torch.bool)
    for place in range(int(start_N.min()), tokens_NL.shape[1]):
        if end is not None and not bool(going_N.any()):
            tokens_NL[:, place:] = pad
            break
        due_N = start_N <= place
        chosen_N = choose(next_logits(tokens_NL[:, :place]), uniforms_NL[:, place], temperature=temperature)
        written_NL[:, place] = due_N & going_N
        chosen_N = torch.where(going_N, chosen_N.to(tokens_NL.dtype), pad)
        tokens_NL[:, place] = torch.where(due_N, chosen_N, tokens_NL[:, place])
        if end is not None:
            going_N = going_N & ~(due_N & (chosen_N == end))
    return tokens_NL, written_NL


def choose(logits_NV: Tensor, uniforms_N: Tensor, *, temperature: float) -> Tensor:
    """A word for each number in [0, 1), by inverting the distribution: shape (N,), int64.

    >>> choose(torch.tensor([[0.25, 0.5, 0.25]]).log().repeat(3, 1), torch.tensor([0.2, 0.3, 0.8]), temperature=1.0)
    tensor([0, 1, 2])
    """
    if temperature == 0:
        return logits_NV.argmax(1)
    # In 64 bits: the sum over a large vocabulary must not pass over a number that is all but 1.
    sums_NV = (logits_NV.double() / temperature).softmax(1).cumsum(1)
    place_N1 = torch.searchsorted(sums_NV, uniforms_N.double()[:, None] * sums_NV[:, -1:], right=True)
    return place_N1[:, 0].clamp_max(logits_NV.shape[1] - 1)
