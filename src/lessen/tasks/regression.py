"""How far predicted numbers are from the true ones.

Shapes: N examples, D numbers for each.
"""

from __future__ import annotations

from torch import Tensor

from lessen.core.errors import DataError, ShapeError
from lessen.core.estimate import Estimate
from lessen.functional.intervals import mean_with_interval


def mean_squared_error(values_ND: Tensor, labels_ND: Tensor) -> Estimate:
    """Squared error averaged over examples and numbers, in the labels' unit squared, +- 1.96 standard errors.

    Args:
        values_ND: Predictions, shape (N,) or (N, ...).
        labels_ND: The truth, the same shape; (N,) and (N, 1) fit together.

    Raises:
        ShapeError: the two do not fit together.
        DataError: there are no examples.
    """
    if values_ND.numel() != labels_ND.numel() or _inner(values_ND) != _inner(labels_ND):
        raise ShapeError(
            f"Got predictions of shape {tuple(values_ND.shape)} and labels of shape {tuple(labels_ND.shape)}; "
            "expected the same shape."
        )
    if len(labels_ND) == 0:
        raise DataError("There are no examples; expected at least one.")
    difference = values_ND.double().reshape(len(labels_ND), -1) - labels_ND.double().reshape(len(labels_ND), -1)
    return mean_with_interval(difference.square().mean(1))


def _inner(values: Tensor) -> tuple[int, ...]:
    shape = tuple(values.shape)
    return shape[:1] if shape[1:] == (1,) else shape
