"""MNIST-1D: signals of 40 points in ten classes, generated here. Small, and still hard for a linear model.

Greydanus & Kobak, Scaling Down Deep Learning with MNIST-1D, ICML 2024, arXiv:2011.14439, section 2 and appendix A. The
templates and constants are theirs, the code and the random numbers are not, so the examples are others of the same
distribution.

Shapes: N examples, T points of a template (12), P points of a padded signal (72), S samples of an example (40).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from lessen.core.data import ArrayExamples, Data
from lessen.core.seeds import derive
from lessen.core.settings import settings
from lessen.data.split import cut, shuffled
from lessen.data.transforms import AnyView

SHAPES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
"""One template for each digit, drawn from left to right as the pen moves from top to bottom."""

POINTS, PADDING, SAMPLES = 12, (36, 60), 40
"""Points of a template; fewest and most zeros behind it; samples of an example."""

SHIFTS, SCALE, SHEAR = 48, 0.4, 0.75
"""How many shifts there are, from 0 on; the widths of the ranges of the size (around 1) and of the slope (around 0)."""

CORRELATED, BLUR, INDEPENDENT = 0.25, 2.0, 0.02
"""Spread of the noise around the signal before it is blurred, the width of that blur in points, and the spread of the
noise everywhere."""

_PADDED = POINTS + PADDING[1]


@settings
class Mnist1d:
    """MNIST-1D as standardised signals of shape (1, 40), float32; ten classes of the same size.

    Nothing is fetched. On three draws, ridge regression was right on 24 to 26 % of the test split, logistic regression
    on 32 to 33 %, and a network of three convolutions on 90 to 92 % (`python benchmarks/simple/run.py mnist1d`; the
    paper has 32 and 94 % for the last two).

    Args:
        train: Examples to learn from, before those for validation are taken.
        validation: Of `train`, how many to choose settings by.
        test: Examples to report on.
        drawn: Which examples are generated. Results can be compared only for the same number.
        seed: Which of `train` are for validation.
        augment: The view of a training batch, or None.
    """

    train: PositiveInt = 4000
    validation: PositiveInt = 500
    test: PositiveInt = 1000
    drawn: NonNegativeInt = 0
    seed: NonNegativeInt = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits. The test split depends on `train`, `test` and `drawn`, never on `seed`.

        Raises:
            DataError: `validation` leaves nothing to learn from.
        """
        rng = np.random.default_rng(derive(self.drawn, "mnist1d"))
        # Each split on its own, so that each has the classes in equal shares, as far as its size allows.
        learned, told = _split(self.train, rng), _split(self.test, rng)
        order = shuffled(self.train, learned[1], seed=self.seed, purpose="validation")
        chosen = cut(self.train, self.validation, "validation")
        rest, held = order[chosen:], order[:chosen]
        mean, spread = learned[0][rest].mean(), learned[0][rest].std()

        def examples(inputs: Tensor, labels: Tensor) -> ArrayExamples:
            return ArrayExamples((inputs - mean) / spread, labels)

        return Data(
            train=examples(learned[0][rest], learned[1][rest]),
            validation=examples(learned[0][held], learned[1][held]),
            test=examples(*told),
            classes=tuple("0123456789"),
            augment=self.augment,
            name="mnist1d",
        )


def templates() -> NDArray[np.float64]:
    """The ten templates, shape (10, T): all of one spread, and each begins at 0.

    >>> templates().shape, float(templates()[:, 0].max())
    ((10, 12), 0.0)
    """
    shapes = np.array(SHAPES, dtype=np.float64)
    scaled = shapes / shapes.std(1, keepdims=True)
    from_zero: NDArray[np.float64] = (scaled - scaled[:, :1]) / 6
    return from_zero


def signals(
    shapes_NT: NDArray[Any],
    *,
    zeros_N: NDArray[Any],
    sizes_N: NDArray[Any],
    shifts_N: NDArray[Any],
    slopes_N: NDArray[Any],
    around_NP: NDArray[Any],
    everywhere_NP: NDArray[Any],
) -> NDArray[np.float64]:
    """What becomes of templates, shape (N, S): stretched, sized, shifted, covered with noise, sheared and sampled.

    Args:
        shapes_NT: A template for each example.
        zeros_N: Zeros behind the template before all are stretched to one length, so fewer zeros make it wider.
        sizes_N: What the template is multiplied by.
        shifts_N: Points by which the signal moves to the right, around the end.
        slopes_N: What is subtracted over the whole length.
        around_NP: Noise in place of the zeros; it is blurred here.
        everywhere_NP: Noise that is added to every point.
    """
    from scipy.ndimage import gaussian_filter1d

    count, points = shapes_NT.shape
    padded = around_NP.shape[1]
    place_NP = np.linspace(0, points - 1 + zeros_N, padded, axis=1)
    # Two zeros behind the template are enough: everything further right lies between them.
    known_NT = np.concatenate([shapes_NT, np.zeros((count, 2))], axis=1)
    left_NP = np.minimum(place_NP.astype(np.int64), points)
    part_NP = place_NP - left_NP
    low_NP, high_NP = (np.take_along_axis(known_NT, left_NP + step, 1) for step in (0, 1))
    drawn_NP = (low_NP + part_NP * (high_NP - low_NP)) * sizes_N[:, None]
    from_NP = (np.arange(padded) - shifts_N[:, None]) % padded
    drawn_NP = np.take_along_axis(drawn_NP, from_NP, 1)
    inside_NP = np.take_along_axis(place_NP < points, from_NP, 1)
    noise_NP = gaussian_filter1d(around_NP, BLUR, axis=1)
    noisy_NP = np.where(inside_NP, drawn_NP, noise_NP) + everywhere_NP
    sheared_NP = noisy_NP - slopes_N[:, None] * np.linspace(-0.5, 0.5, padded)
    at_S = np.linspace(0, padded - 1, SAMPLES)
    left_S = np.minimum(at_S.astype(np.int64), padded - 2)
    part_S = at_S - left_S
    result: NDArray[np.float64] = sheared_NP[:, left_S] * (1 - part_S) + sheared_NP[:, left_S + 1] * part_S
    return result


def _split(count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    labels_N = rng.permutation(np.arange(count) % len(SHAPES))
    made_NS = signals(
        templates()[labels_N],
        zeros_N=rng.integers(PADDING[0], PADDING[1], count, endpoint=True),
        sizes_N=1 + SCALE * (rng.random(count) - 0.5),
        shifts_N=rng.integers(SHIFTS, size=count),
        slopes_N=SHEAR * (rng.random(count) - 0.5),
        around_NP=CORRELATED * rng.standard_normal((count, _PADDED)),
        everywhere_NP=INDEPENDENT * rng.standard_normal((count, _PADDED)),
    )
    return torch.from_numpy(made_NS.astype(np.float32)).unsqueeze(1), torch.from_numpy(labels_N.astype(np.int64))
