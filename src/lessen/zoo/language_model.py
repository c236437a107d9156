"""A small causal language model.

Radford et al., Language models are unsupervised multitask learners, 2019 (GPT-2): learned positions, normalisation
before each part of a block, one matrix for embedding and output.

Shapes: N sequences, L positions, D features a token, V words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import SettingError
from lessen.zoo.transformer import TransformerBlock


def language_model(
    *, vocabulary: int = 64, length: int = 64, dim: int = 32, depth: int = 2, heads: int = 4, ratio: float = 4.0
) -> LanguageModel:
    """A transformer that says at each position what it expects at the next: tokens (N, L) to logits (N, L, V).

    Args:
        vocabulary: How many words there are.
        length: Most positions of a sequence.
        dim: Features of a token.
        depth: Blocks.
        heads: Attention heads; must divide `dim`.
        ratio: Hidden features of a block's perceptron, over `dim`.

    Raises:
        SettingError: `heads` does not divide `dim`.

    >>> language_model(vocabulary=11, dim=8, depth=1, heads=2)(torch.zeros(2, 5, dtype=torch.long)).shape
    torch.Size([2, 5, 11])
    """
    if dim % heads:
        raise SettingError(f"language_model: dim is {dim} and heads {heads}, but the heads must divide the features.")
    hidden = round(dim * ratio)
    return LanguageModel(vocabulary=vocabulary, length=length, dim=dim, depth=depth, heads=heads, hidden=hidden)


class LanguageModel(nn.Module):
    """Words and positions, causal `blocks`, a normalisation, and the words again as outputs."""

    def __init__(self, *, vocabulary: int, length: int, dim: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.words = nn.Embedding(vocabulary, dim)
        self.position = nn.Parameter(torch.empty(1, length, dim))
        self.blocks = nn.Sequential(
            *(TransformerBlock(dim, heads, hidden, fused=False, causal=True) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(dim)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.position, std=0.02)

    def forward(self, tokens_NL: Tensor) -> Tensor:
        x_NLD = self.words(tokens_NL) + self.position[:, : tokens_NL.shape[1]]
        return F.linear(self.norm(self.blocks(x_NLD)), self.words.weight)
