"""The modules of bridges, other than convolutions and linear layers; only `AttentionPool` has weights.

Shapes: N examples, C channels, H x W positions of a grid, T tokens: P prefix tokens (a class token), then H * W.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Resize(nn.Module):
    """(N, C, h, w) to (N, C, H, W): averages where the grid gets smaller, interpolates where it gets larger."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, grid_NCHW: Tensor) -> Tensor:
        height, width = grid_NCHW.shape[2:]
        smaller = (min(height, self.size[0]), min(width, self.size[1]))
        if smaller != (height, width):
            grid_NCHW = F.adaptive_avg_pool2d(grid_NCHW, smaller)
        if smaller != self.size:
            grid_NCHW = F.interpolate(grid_NCHW, self.size, mode="bilinear", align_corners=False)
        return grid_NCHW

    def extra_repr(self) -> str:
        return f"height={self.size[0]}, width={self.size[1]}"


class ToGrid(nn.Module):
    """(N, T, C) to (N, C, H, W): the last H * W tokens, row by row; prefix tokens are left out."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, tokens_NTC: Tensor) -> Tensor:
        height, width = self.size
        grid_NCHW: Tensor = tokens_NTC[:, -height * width :].transpose(1, 2).unflatten(2, (height, width))
        return grid_NCHW

    def extra_repr(self) -> str:
        return f"height={self.size[0]}, width={self.size[1]}"


class ToTokens(nn.Module):
    """(N, C, H, W) to (N, P + H * W, C), row by row; each prefix token is the mean of the grid."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def forward(self, grid_NCHW: Tensor) -> Tensor:
        tokens_NTC = grid_NCHW.flatten(2).transpose(1, 2)
        return torch.cat([_mean_token(tokens_NTC, self.prefix), tokens_NTC], dim=1)

    def extra_repr(self) -> str:
        return f"prefix={self.prefix}"


class ResizeTokens(nn.Module):
    """(N, p + h * w, C) to (N, P + H * W, C): prefix tokens stay as they are, missing ones are the mean of the grid."""

    def __init__(self, before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
        super().__init__()
        self.before, self.after = before, after
        self.to_grid = ToGrid(before[1], before[2])
        self.resize = Resize(after[1], after[2])

    def forward(self, tokens_NTC: Tensor) -> Tensor:
        kept = min(self.before[0], self.after[0])
        grid = self.resize(self.to_grid(tokens_NTC)).flatten(2).transpose(1, 2)
        return torch.cat([tokens_NTC[:, :kept], _mean_token(grid, self.after[0] - kept), grid], dim=1)

    def extra_repr(self) -> str:
        return f"before={self.before}, after={self.after}"


class Pool(nn.Module):
    """The mean over positions: (N, C, H, W) or (N, T, C) to (N, C)."""

    def forward(self, features: Tensor) -> Tensor:
        return features.mean((2, 3)) if features.ndim == 4 else features.mean(1)


class AttentionPool(nn.Module):
    """A weighted mean over positions, by a softmax of a learned query: (N, C, H, W) or (N, T, C) to (N, C)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.query_C = nn.Parameter(torch.zeros(features))

    def forward(self, features: Tensor) -> Tensor:
        value_NTC = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
        score_NT = value_NTC @ self.query_C / math.sqrt(len(self.query_C))
        return (score_NT.softmax(1).unsqueeze(2) * value_NTC).sum(1)

    def extra_repr(self) -> str:
        return f"features={len(self.query_C)}"


def _mean_token(tokens_NTC: Tensor, count: int) -> Tensor:
    return tokens_NTC.mean(1, keepdim=True).expand(-1, count, -1)
