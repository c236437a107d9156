"""Two thin layers for one: which matrices, of what rank, laid out how.

Denton et al., Exploiting linear structure within convolutional networks, NeurIPS 2014, arXiv:1404.0736.
Spatial scheme: Jaderberg et al., Speeding up convolutional neural networks with low rank expansions, BMVC 2014,
arXiv:1405.3866. That no other pair of rank R is nearer: Eckart & Young 1936.

Shapes: a matrix W of O rows and I columns is U diag(s) V^T with K singular values, of which R are kept. A
convolution has O outputs, I inputs and a kernel of H x W.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lessen.core import settings


def factors(matrix_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The nearest product of (O, R) and (R, I); both factors have the same singular values.

    >>> a, b = factors(torch.tensor([[2.0, 0.0], [0.0, 1.0]]), 1)
    >>> (a @ b).abs().round()
    tensor([[2., 0.],
            [0., 0.]])
    """
    u_OK, s_K, vh_KI = torch.linalg.svd(matrix_OI.double(), full_matrices=False)
    root_R = s_K[:rank].sqrt()
    return (u_OK[:, :rank] * root_R).to(matrix_OI), (root_R[:, None] * vh_KI[:rank]).to(matrix_OI)


def rank_for_energy(matrix_OI: Tensor, energy: float) -> int:
    """The smallest rank that keeps this share of the sum of squared singular values.

    >>> rank_for_energy(torch.diag(torch.tensor([3.0, 1.0, 0.0])), 0.9), rank_for_energy(torch.eye(3), 1.0)
    (1, 3)
    """
    kept_K = torch.linalg.svdvals(matrix_OI.double()).square().cumsum(0)
    if not kept_K[-1] > 0:
        return 1
    below = int((kept_K < energy * kept_K[-1]).sum())
    return min(below + 1, len(kept_K))


@runtime_checkable
class Matricization(Protocol):
    """How the weight of a convolution is laid out as a matrix, and how two factors are laid out as convolutions."""

    def matrix(self, conv: nn.Conv2d) -> Tensor:
        """The weight as a matrix: rows belong to the second factor, columns to the first."""

    def pair(self, conv: nn.Conv2d, rank: int) -> tuple[nn.Conv2d, nn.Conv2d]:
        """The two convolutions, empty; the second has the bias."""

    def weights(self, second: Tensor, first: Tensor, kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The factors of the matrix, (rows, R) and (R, columns), as the weights of the first and second convolution."""


@settings
class Channel:
    """All positions of the kernel first, into R channels; then a 1 x 1 convolution to the outputs."""

    def matrix(self, conv: nn.Conv2d) -> Tensor:
        return conv.weight.detach().flatten(1)

    def pair(self, conv: nn.Conv2d, rank: int) -> tuple[nn.Conv2d, nn.Conv2d]:
        first = _conv(conv, conv.in_channels, rank, bias=False)
        return first, nn.Conv2d(rank, conv.out_channels, 1, bias=conv.bias is not None, **_kind(conv))

    def weights(self, second: Tensor, first: Tensor, kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
        return first.unflatten(1, (-1, *kernel)), second[:, :, None, None]


@settings
class Spatial:
    """The columns of the kernel first (k x 1, into R channels), then its rows (1 x k)."""

    def matrix(self, conv: nn.Conv2d) -> Tensor:
        return conv.weight.detach().permute(0, 3, 1, 2).flatten(0, 1).flatten(1)  # (O w, I h)

    def pair(self, conv: nn.Conv2d, rank: int) -> tuple[nn.Conv2d, nn.Conv2d]:
        first = _conv(conv, conv.in_channels, rank, bias=False, axis=0)
        return first, _conv(conv, rank, conv.out_channels, bias=conv.bias is not None, axis=1)

    def weights(self, second: Tensor, first: Tensor, kernel: tuple[int, int]) -> tuple[Tensor, Tensor]:
        height, width = kernel
        second_OWR = second.unflatten(0, (-1, width))
        return first.unflatten(1, (-1, height, 1)), second_OWR.permute(0, 2, 1).unsqueeze(2)


def matrix_of(layer: nn.Linear | nn.Conv2d, scheme: Matricization) -> Tensor:
    """The weight of a layer as the matrix that is factorised."""
    return scheme.matrix(layer) if isinstance(layer, nn.Conv2d) else layer.weight.detach()


@torch.no_grad()
def factorized(layer: nn.Linear | nn.Conv2d, rank: int, scheme: Matricization, *, values: bool) -> nn.Sequential:
    """The two layers in the place of one; with `values=False` their weights are not computed."""
    first: nn.Linear | nn.Conv2d
    second: nn.Linear | nn.Conv2d
    if isinstance(layer, nn.Conv2d):
        first, second = scheme.pair(layer, rank)
    else:
        first = nn.Linear(layer.in_features, rank, bias=False, **_kind(layer))
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None, **_kind(layer))
    if values:
        second_weight, first_weight = factors(matrix_of(layer, scheme), rank)
        if isinstance(layer, nn.Conv2d):
            kernel = (layer.kernel_size[0], layer.kernel_size[1])
            first_weight, second_weight = scheme.weights(second_weight, first_weight, kernel)
        first.weight.copy_(first_weight)
        second.weight.copy_(second_weight)
        if layer.bias is not None and second.bias is not None:
            second.bias.copy_(layer.bias)
    pair = nn.Sequential(first, second).requires_grad_(layer.weight.requires_grad)
    return pair.train(layer.training)


def _conv(like: nn.Conv2d, in_channels: int, out_channels: int, *, bias: bool, axis: int | None = None) -> nn.Conv2d:
    """A convolution with the geometry of another, or with that of one of its axes only."""

    def along(value: tuple[int, ...], other: int) -> tuple[int, int]:
        both = (value[0], value[1])
        return both if axis is None else (both[0], other) if axis == 0 else (other, both[1])

    return nn.Conv2d(
        in_channels,
        out_channels,
        along(like.kernel_size, 1),
        along(like.stride, 1),
        like.padding if isinstance(like.padding, str) else along(like.padding, 0),
        along(like.dilation, 1),
        bias=bias,
        padding_mode=like.padding_mode,
        **_kind(like),
    )


def _kind(layer: nn.Linear | nn.Conv2d) -> dict[str, Any]:
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}
