"""Singular vectors: each layer is a few directions of its channels; how they change from layer to layer is taught.

Lee, Kim & Song, Self-supervised knowledge distillation using singular value decomposition, ECCV 2018,
arXiv:1807.06819, section 3.

Shapes: N examples, C and D channels of a layer and of the next, P positions, K teacher's vectors, M student's vectors.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.functional.channels import by_channel, unit
from lessen.functional.pairs import full_precision
from lessen.functional.singular import right_singular_vectors
from lessen.knowledge.layers.several import several


def align(student_NCM: Tensor, teacher_NCK: Tensor) -> Tensor:
    """For each teacher's vector the student's that is nearest up to sign, with the sign that makes it near: (N, C, K).

    >>> student = torch.tensor([[[0.0, 1.0], [-1.0, 0.0]]])
    >>> align(student, torch.tensor([[[0.6], [0.8]]]))
    tensor([[[-0.],
             [1.]]])
    """
    cosine_NMK = student_NCM.detach().transpose(1, 2) @ teacher_NCK.detach()
    nearest_N1K = cosine_NMK.abs().argmax(1, keepdim=True)
    chosen_NCK = student_NCM.gather(2, nearest_N1K.expand(-1, student_NCM.shape[1], -1))
    turned_N1K = cosine_NMK.gather(1, nearest_N1K) < 0
    return torch.where(turned_N1K, -chosen_NCK, chosen_NCK)


def compressed(student: Tensor, teacher: Tensor, *, vectors: int, spare: int) -> tuple[Tensor, Tensor, Tensor]:
    """Leading right singular vectors of both maps (P x C), the student's aligned with the teacher's.

    Returns:
        Vectors of student and teacher, both (N, C, K), and the teacher's singular values, (N, K), of length 1 together.
    """
    student_NPC, teacher_NPC = (by_channel(features).transpose(1, 2) for features in (student, teacher))
    with full_precision(teacher_NPC):
        teacher_NCK, values_NK = right_singular_vectors(teacher_NPC, vectors)
        student_NCM, _ = right_singular_vectors(student_NPC, vectors + spare)
        return align(student_NCM, teacher_NCK), teacher_NCK, unit(values_NK, 1)


def layer_relation(first_NCK: Tensor, second_NDK: Tensor) -> Tensor:
    """exp(-(difference)^2 / 8) of each entry of one layer's vectors with each of the next's: shape (N, C, D, K)."""
    return (-(first_NCK.unsqueeze(2) - second_NDK.unsqueeze(1)).square() / 8).exp()


@settings
class SingularVectors:
    """Match how the leading singular vectors of channels change from each tap to the next, over two taps or more.

    Each tap needs as many channels in the student as in the teacher; the size of its map is free.

    Args:
        vectors: How many of the teacher's vectors are taught at each tap, at most as many as there are channels and
            positions.
        spare: How many additional vectors of the student may be matched, because its vectors may come in another order.
    """

    vectors: Annotated[int, Field(ge=1)] = 1
    spare: Annotated[int, Field(ge=0)] = 3

    card: ClassVar[Card] = Card(
        row="knowledge / between layers",
        paper="arXiv:1807.06819 (KD-SVD)",
        says="Between consecutive taps, the student's singular vectors relate as the teacher's do, seen through a "
        "radial function.",
        costs="Nothing in the shipped model; at each tap an eigendecomposition of the smaller of C x C and P x P for "
        "every example, which is slow on accelerators.",
        fails_when="Several singular values are nearly equal: the vectors then change with every step. In float16 the "
        "sum overflows beyond 256 x 256 channels; use float32 taps then.",
        differs="Maps are unrolled as positions x channels, summed over entries, as in most released code; some "
        "unrolls as (channels x height) x width. Signs of the teacher's vectors follow a rule (entries sum to 0 or "
        "more), and the gradient is damped where singular values meet, where released code drops what is not finite.",
    )

    def __call__(self, student: Any, teacher: Any, /) -> Tensor:
        taps = several(student, teacher, what="SingularVectors", least=2)
        losses, before = [], None
        for student_tap, teacher_tap in zip(*taps, strict=True):
            student_NCK, teacher_NCK, values_NK = compressed(
                student_tap, teacher_tap, vectors=self.vectors, spare=self.spare
            )
            now = student_NCK * values_NK.unsqueeze(1), teacher_NCK * values_NK.unsqueeze(1)
            if before is not None:
                kept = min(now[0].shape[2], before[0].shape[2])
                relations = [layer_relation(b[..., :kept], n[..., :kept]) for b, n in zip(before, now, strict=True)]
                losses.append((relations[0] - relations[1]).square().sum((1, 2, 3)))
            before = now
        return torch.stack(losses).sum(0).to(student[0].dtype)
