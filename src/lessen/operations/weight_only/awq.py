"""AWQ: make the columns with large inputs larger before rounding, so that their error becomes smaller.

Lin et al., AWQ: Activation-aware weight quantization for on-device LLM compression and acceleration, MLSys 2024,
arXiv:2306.00978, section 3.2: the weight becomes Q(W diag(s)) diag(s)^-1 with s = a^alpha, where a is how large the
inputs of a column are, and alpha is searched on a lattice for the smallest error of the outputs.

Shapes: O rows, I inputs of a row.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from lessen.core import Card, settings
from lessen.operations.weight_only.nearest import nearest
from lessen.operations.weight_only.rounding import Rounding, output_error
from lessen.surgery.forms.codes import Coded


def column_scales(gram_II: Tensor, alpha: float) -> Tensor:
    """What the columns are multiplied by before rounding, shape (I,): 1 at alpha 0, and in the middle of its range.

    >>> column_scales(torch.diag(torch.tensor([1.0, 16.0])), 0.5)
    tensor([0.7071, 1.4142])
    """
    size_I = gram_II.diagonal().sqrt()
    size_I = size_I.clamp_min(size_I.amax() * 1e-4)
    scales_I = size_I**alpha if bool((size_I > 0).all()) else torch.ones_like(size_I)
    return scales_I / (scales_I.amax() * scales_I.amin()).sqrt()


def awq(weight_OI: Tensor, gram_II: Tensor, rounding: Rounding, *, points: int = 20) -> Coded:
    """The codes of a weight and what its columns are multiplied by afterwards, at the best of `points` + 1 alphas.

    Args:
        weight_OI: In float64.
        gram_II: The sum of x x^T, in float64.
        rounding: Bits and group.
        points: Into how many steps alpha, from 0 to 1, is divided.
    """
    best, least = None, torch.inf
    for point in range(points + 1):
        scales_I = column_scales(gram_II, point / points)
        made = nearest(weight_OI * scales_I, bits=rounding.bits, group=rounding.group, symmetric=rounding.symmetric)
        # As float32 holds it, since so it is stored.
        columns_I = None if point == 0 else (1 / scales_I).float().to(weight_OI.dtype)
        made = Coded(codes=made.codes, steps=made.steps, zeros=made.zeros, group=made.group, columns=columns_I)
        error = float(output_error(weight_OI - made.weight(), gram_II).sum())
        if error < least:
            best, least = made, error
    assert best is not None
    return best


@settings
class Awq:
    """Protect important columns by scaling them before rounding; the calibration inputs determine the scales.

    Args:
        points: Number of steps in the search over the exponent, from 0 (no scaling) to 1.
    """

    points: Annotated[int, Field(ge=1)] = 20

    needs_inputs: ClassVar[bool] = True
    card: ClassVar[Card] = Card(
        row="operations / rounding of weights",
        paper="arXiv:2306.00978 (AWQ)",
        says="Columns with large inputs are rounded more finely, at the expense of the others.",
        costs="One value for each input of a layer in the file, and one multiplication of the inputs at run time; a "
        "pass over the calibration examples for each layer.",
        fails_when="No input is much larger than the others: the best exponent is then near 0, which equals Nearest().",
        differs="The size of an input is its root mean square; the paper takes the mean magnitude. The scales stay "
        "with the layer instead of going into the one before it, so no layer need be provably linear. Ranges are not "
        "clipped.",
    )

    def round(self, weight_OI: Tensor, rounding: Rounding) -> Coded:
        """The codes of a weight."""
        assert rounding.gram is not None  # `needs_inputs`
        return awq(weight_OI, rounding.gram, rounding, points=self.points)
