"""A small vision transformer.

Dosovitskiy et al., An Image is Worth 16x16 Words, ICLR 2021, arXiv:2010.11929, with the mean over the tokens in place
of a class token (section D.3 finds no difference), which keeps every token an image position.

Shapes: N examples, T tokens, D features a token, H heads, K features a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import SettingError


def transformer(
    *,
    image: int = 28,
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    ratio: float = 2.0,
    classes: int = 10,
    channels: int = 1,
    fused: bool = False,
) -> Transformer:
    """A transformer over patches of square images.

    Args:
        image: Height and width of the images, in pixels.
        patch: Height and width of a patch; must divide `image`.
        dim: Features of a token.
        depth: Blocks.
        heads: Attention heads; must divide `dim`.
        ratio: Hidden features of a block's perceptron, over `dim`.
        classes: Outputs.
        channels: Channels of the images.
        fused: One linear layer for queries, keys and values, as timm has it, in place of three.

    Raises:
        SettingError: `patch` does not divide `image`, or `heads` does not divide `dim`.

    >>> transformer(image=8, patch=2, dim=8, depth=1, heads=2)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    if image % patch:
        raise SettingError(f"transformer: image is {image} and patch {patch}, but a patch must divide the image.")
    if dim % heads:
        raise SettingError(f"transformer: dim is {dim} and heads {heads}, but the heads must divide the features.")
    return Transformer(
        tokens=(image // patch) ** 2,
        patch=patch,
        dim=dim,
        depth=depth,
        heads=heads,
        hidden=round(dim * ratio),
        classes=classes,
        channels=channels,
        fused=fused,
    )


class Transformer(nn.Module):
    """Patches, positions, `blocks`, a normalisation, the mean over tokens, a head."""

    def __init__(
        self,
        *,
        tokens: int,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        classes: int,
        channels: int,
        fused: bool,
    ) -> None:
        super().__init__()
        self.patch = nn.Conv2d(channels, dim, patch, stride=patch)
        self.position = nn.Parameter(torch.empty(1, tokens, dim))
        self.blocks = nn.Sequential(*(TransformerBlock(dim, heads, hidden, fused=fused) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, images_NCHW: Tensor) -> Tensor:
        x_NTD = self.patch(images_NCHW).flatten(2).transpose(1, 2) + self.position
        logits: Tensor = self.head(self.norm(self.blocks(x_NTD)).mean(1))
        return logits


class TransformerBlock(nn.Module):
    """Attention, then a perceptron, each after a normalisation and with a residual connection."""

    def __init__(self, dim: int, heads: int, hidden: int, *, fused: bool, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = FusedAttention(dim, heads) if fused else Attention(dim, heads, causal=causal)
        self.norm2 = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, hidden)
        self.activation = nn.GELU()
        self.contract = nn.Linear(hidden, dim)

    def forward(self, x_NTD: Tensor) -> Tensor:
        x_NTD = x_NTD + self.attention(self.norm1(x_NTD))
        result: Tensor = x_NTD + self.contract(self.activation(self.expand(self.norm2(x_NTD))))
        return result


class Attention(nn.Module):
    """Multi-head self-attention with a layer each for queries, keys and values; `causal`: not to later tokens."""

    def __init__(self, dim: int, heads: int, *, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal
        self.num_heads, self.head_dim = heads, dim // heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_NTD: Tensor) -> Tensor:
        heads = (self.num_heads, self.head_dim)
        query, key, value = (
            layer(x_NTD).unflatten(-1, heads).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        mixed_NHTK = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        result: Tensor = self.out(mixed_NHTK.transpose(1, 2).flatten(2))
        return result


class FusedAttention(nn.Module):
    """Multi-head self-attention with one layer for queries, keys and values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = heads, dim // heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x_NTD: Tensor) -> Tensor:
        three = self.qkv(x_NTD).unflatten(-1, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        query, key, value = three.unbind(0)
        mixed_NHTK = F.scaled_dot_product_attention(query, key, value)
        result: Tensor = self.out(mixed_NHTK.transpose(1, 2).flatten(2))
        return result
