"""What concerns one class of many: the label of each example, and all classes but the label.

Shapes: N examples, C classes along axis 1, any further axes are positions; labels are class indices, (N, ...).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lessen.core.errors import DataError, ShapeError
from lessen.functional.shapes import mismatch


def class_numbers(logits_NC: Tensor, labels_N: Tensor, *, what: str) -> Tensor:
    """The labels, checked to be one class index for each example and position.

    Raises:
        DataError: the labels are probabilities or mixed, where `what` needs one class an example.
        ShapeError: they do not fit the logits, or there are fewer than two classes.
    """
    shapes = f"logits {tuple(logits_NC.shape)}, labels {tuple(labels_N.shape)}"
    if labels_N.is_floating_point():
        raise DataError(
            f"{what} needs one class index for each example, but the labels are of {labels_N.dtype} ({shapes}), as "
            "mixed or soft labels are. Use integer labels, or an objective without labels: SoftTargets."
        )
    if logits_NC.ndim < 2 or labels_N.shape != logits_NC.shape[:1] + logits_NC.shape[2:]:
        expected = "labels (N, ...) with logits (N, C, ...)"
        raise mismatch(logits_NC, labels_N, what=what, expected=expected, advice=f"Got {shapes}.")
    if logits_NC.shape[1] < 2:
        raise ShapeError(f"{what} needs two classes or more, but got {shapes}. Tap the logits of all classes.")
    return labels_N.long()


def at_label(values_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The value of the label: (N, C, ...) to (N, ...).

    >>> at_label(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
    tensor([2., 3.])
    """
    return values_NC.gather(1, labels_N.unsqueeze(1)).squeeze(1)


def without_label(values_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The values of all classes but the label, in their order: (N, C, ...) to (N, C - 1, ...).

    Nothing is masked by a large number, so nothing overflows and what is left can be normalised as it is.

    >>> without_label(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), torch.tensor([1, 0]))
    tensor([[1., 3.],
            [5., 6.]])
    """
    positions = (1,) * (values_NC.ndim - 2)
    others = torch.arange(values_NC.shape[1] - 1, device=values_NC.device).view(1, -1, *positions)
    return values_NC.gather(1, others + (others >= labels_N.unsqueeze(1)).long())
