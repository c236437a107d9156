"""What relations between the examples of a batch are made of: matrices over pairs, from features of any shape.

Shapes: N examples, C features of each. Everything is a product of matrices: no tensor of (N, N, C) is ever made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lessen.functional.shapes import mismatch, wide


def full_precision(like: Tensor) -> torch.autocast:
    """A block in which autocast does not make products of 32 bits into products of 16."""
    return torch.autocast(like.device.type, enabled=False)


def rows(features: Tensor) -> Tensor:
    """Features as one row an example, in at least 32 bits: (N, ...) to (N, C)."""
    return wide(features).flatten(1)


def paired_rows(student: Tensor, teacher: Tensor, *, what: str, least: int = 2) -> tuple[Tensor, Tensor]:
    """Both sides as rows; their widths may differ.

    Raises:
        ShapeError: one of them is not (N, ...), their N differ, or there are fewer than `least` examples.
    """
    fits = student.ndim >= 2 and teacher.ndim >= 2 and len(student) == len(teacher) >= least
    if not fits:
        raise mismatch(
            student,
            teacher,
            what=what,
            expected=f"features (N, ...) of the same N examples, {least} or more",
            advice="Tap features, not labels; a batch, or its part on one process, must not be smaller.",
        )
    return rows(student), rows(teacher)


def gram(rows_NC: Tensor) -> Tensor:
    """The inner products of all pairs, shape (N, N)."""
    with full_precision(rows_NC):
        return rows_NC @ rows_NC.T


def unit_rows(rows_NC: Tensor) -> Tensor:
    """Rows of length one; a row of zeros stays, and has no gradient.

    >>> unit_rows(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    square_N1 = rows_NC.square().sum(1, keepdim=True)
    return rows_NC * _where_positive(square_N1, torch.rsqrt)


def cosines(rows_NC: Tensor) -> Tensor:
    """The cosines between all pairs, shape (N, N); 0 where one of the two is zero."""
    return gram(unit_rows(rows_NC))


def centred_gram(rows_NC: Tensor) -> Tensor:
    """The inner products of all pairs, seen from the mean of the batch: shape (N, N).

    Distances and angles are the same from there, and fewer digits are lost in the differences below.
    """
    return gram(rows_NC - rows_NC.mean(0))


def squared_distances(gram_NN: Tensor) -> Tensor:
    """The squared distances of all pairs, from their inner products: shape (N, N).

    Exactly 0, and without gradient, on the diagonal and where rounding leaves no digit of a distance.

    >>> squared_distances(gram(torch.tensor([[0.0, 0.0], [3.0, 4.0]])))
    tensor([[ 0., 25.],
            [25.,  0.]])
    """
    square_N = gram_NN.diagonal()
    both_NN = square_N[:, None] + square_N
    squared_NN = both_NN - 2 * gram_NN
    seen_NN = squared_NN > 16 * torch.finfo(gram_NN.dtype).eps * both_NN
    return squared_NN.where(seen_NN.fill_diagonal_(False), squared_NN.new_zeros(()))


def root(squared: Tensor) -> Tensor:
    """Square roots; 0, and without gradient, at 0."""
    return _where_positive(squared, torch.sqrt)


def inverse_root(squared: Tensor) -> Tensor:
    """One over square roots; 0, and without gradient, at 0."""
    return _where_positive(squared, torch.rsqrt)


def off_diagonal(matrix_NN: Tensor) -> Tensor:
    """A square matrix without its diagonal, row by row: shape (N, N - 1).

    >>> off_diagonal(torch.arange(9).view(3, 3))
    tensor([[1, 2],
            [3, 5],
            [6, 7]])
    """
    count = len(matrix_NN)
    return matrix_NN.flatten()[1:].view(count - 1, count + 1)[:, :-1].reshape(count, count - 1)


def _where_positive(values: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    positive = values > 0
    # The inner `where` keeps the infinite slope at zero out of the backward pass; the outer one alone would not.
    return function(values.where(positive, values.new_ones(()))) * positive
