"""Leading right singular vectors of a batch of matrices, with a gradient that stays finite.

The derivative of an eigenvector divides by the gaps between eigenvalues (Magnus, On differentiating eigenvalues and
eigenvectors, 1985). Where two are equal, the vectors are not unique and the gradient is infinite; here the quotient is
damped, 1 / gap becoming gap / (gap^2 + small^2), which leaves the gradient right wherever it is well defined.

Shapes: N matrices, P rows, C columns, K vectors, D the smaller of P and C.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lessen.functional.channels import unit


def right_singular_vectors(matrix_NPC: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` leading right singular vectors and singular values: shapes (N, C, K) and (N, K), largest first.

    There are no more than the smaller side has. The sign of a vector is such that its entries sum to 0 or more; without
    a rule it is arbitrary. Works on the smaller of the two Gram matrices.

    >>> vectors, values = right_singular_vectors(torch.diag(torch.tensor([1.0, 3.0, 2.0]))[None], 2)
    >>> values.round(decimals=4)
    tensor([[3., 2.]])
    >>> vectors[0].T.round(decimals=4).abs()
    tensor([[0., 1., 0.],
            [0., 0., 1.]])
    """
    rows, columns = matrix_NPC.shape[1:]
    if rows < columns:
        left_NPK = _leading(matrix_NPC @ matrix_NPC.transpose(1, 2), count)
        scaled_NCK = matrix_NPC.transpose(1, 2) @ left_NPK
        vectors_NCK = unit(scaled_NCK, 1)
    else:
        vectors_NCK = _leading(matrix_NPC.transpose(1, 2) @ matrix_NPC, count)
    values_NK: Tensor = torch.linalg.vector_norm(matrix_NPC @ vectors_NCK, dim=1)
    down = vectors_NCK.detach().sum(1, keepdim=True) < 0
    return torch.where(down, -vectors_NCK, vectors_NCK), values_NK


def _leading(gram_NDD: Tensor, count: int) -> Tensor:
    vectors: Tensor = _Eigenvectors.apply(gram_NDD, min(count, gram_NDD.shape[1]))
    return vectors


class _Eigenvectors(torch.autograd.Function):
    """The eigenvectors of the largest eigenvalues of symmetric matrices, largest first."""

    @staticmethod
    def forward(ctx: Any, gram_NDD: Tensor, count: int) -> Tensor:
        values_ND, vectors_NDD = torch.linalg.eigh(gram_NDD)
        ctx.save_for_backward(values_ND, vectors_NDD)
        ctx.count = count
        leading_NDK: Tensor = vectors_NDD[:, :, -count:].flip(2)
        return leading_NDK

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        values_ND, vectors_NDD = ctx.saved_tensors
        (gradient_NDK,) = gradients
        leading_NK = values_ND[:, -ctx.count :].flip(1)
        gap_NDK = leading_NK.unsqueeze(1) - values_ND.unsqueeze(2)  # 0 of a vector with itself, and so is its quotient
        finfo = torch.finfo(values_ND.dtype)
        small_N11 = (finfo.eps**0.5 * values_ND.abs().amax(1) + finfo.tiny**0.25)[:, None, None]
        quotient_NDK = gap_NDK / (gap_NDK.square() + small_N11.square())
        inner_NDK = quotient_NDK * (vectors_NDD.transpose(1, 2) @ gradient_NDK)
        leading_NDK = vectors_NDD[:, :, -ctx.count :].flip(2)
        made_NDD = vectors_NDD @ inner_NDK @ leading_NDK.transpose(1, 2)
        return (made_NDD + made_NDD.transpose(1, 2)) / 2, None
