"""The first and last steps of every loss: check that two tensors fit, compute in enough bits, one value per example."""

from __future__ import annotations

import torch
from torch import Tensor

from lessen.core.errors import ShapeError


def require_same(student: Tensor, teacher: Tensor, *, what: str, least: int = 1, advice: str = "") -> None:
    """Refuse two tensors whose shapes differ, or that have fewer than `least` axes.

    Raises:
        ShapeError: naming `what` was compared, both shapes, and the advice.
    """
    if student.shape != teacher.shape or student.ndim < least:
        raise mismatch(student, teacher, what=what, expected="the same shape", advice=advice)


def mismatch(student: Tensor, teacher: Tensor, *, what: str, expected: str, advice: str = "") -> ShapeError:
    """The error for two tensors that do not fit together, naming both shapes."""
    text = (
        f"{what} needs {expected}, but the student has {tuple(student.shape)} and the teacher {tuple(teacher.shape)}."
    )
    return ShapeError(f"{text} {advice}".rstrip())


def wide(tensor: Tensor) -> Tensor:
    """The tensor in at least 32 bits: exponentials and long sums of half precision overflow or lose every digit."""
    dtype = tensor.dtype
    return tensor.float() if dtype is torch.float16 or dtype is torch.bfloat16 else tensor


def per_example(loss: Tensor, like: Tensor) -> Tensor:
    """The mean over every axis but the first, in the dtype of `like`: shape (N,).

    >>> per_example(torch.ones(2, 3, 3), torch.zeros(2, dtype=torch.float16))
    tensor([1., 1.], dtype=torch.float16)
    """
    flat = loss.flatten(1).mean(1) if loss.ndim > 1 else loss
    return flat if flat.dtype is like.dtype else flat.to(like.dtype)
