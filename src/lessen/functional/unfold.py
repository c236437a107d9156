"""A convolution as a matrix product: the patch of the input under the kernel, at every place that the kernel takes.

Shapes: N examples, C channels, D axes of space, K their places in the kernel, L places of the output, G groups,
P = N * L, I = C / G * K.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F


def unfold(
    inputs: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    padding: Sequence[int] | str,
    dilation: Sequence[int],
    groups: int = 1,
) -> Tensor:
    """What a convolution multiplies its weight with, shape (G, P, I); I runs over channels, then over the kernel.

    With the weight as rows, (G, O / G, I), the product of the two is the convolution, in one, two or three dimensions.

    Args:
        inputs: Shape (N, C, D axes).
        kernel: The size of the kernel on each axis; the others likewise.
        stride: Of the kernel.
        padding: Zeros on both sides, or "same" or "valid".
        dilation: The distance of neighbours under the kernel.
        groups: Into how many groups the channels are cut.

    >>> import torch
    >>> patches_GPI = unfold(torch.arange(4.0).view(1, 1, 4), [2], stride=[1], padding=[0], dilation=[2])
    >>> patches_GPI
    tensor([[[0., 2.],
             [1., 3.]]])
    """
    spans = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
    if padding == "same":
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        sides = [(0, 0) if isinstance(padding, str) else (padding[axis],) * 2 for axis in range(len(kernel))]
    patches = F.pad(inputs, [zeros for pair in reversed(sides) for zeros in pair])
    for axis, (span, step, gap) in enumerate(zip(spans, stride, dilation, strict=True), start=2):
        patches = patches.unfold(axis, span + 1, step)[..., ::gap]
    count, channels, axes = inputs.shape[0], inputs.shape[1], len(kernel)
    patches = patches.reshape(count, groups, channels // groups, *patches.shape[2:])
    # From (N, G, C / G, places, kernel) to (G, N, places, C / G, kernel).
    order = [1, 0, *range(3, 3 + axes), 2, *range(3 + axes, 3 + 2 * axes)]
    return patches.permute(order).reshape(groups, -1, channels // groups * math.prod(kernel))
