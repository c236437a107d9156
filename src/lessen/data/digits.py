"""The 1,797 handwritten digits of 8 x 8 pixels that come with scikit-learn: always there, small, not trivial.

Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from lessen.core.data import ArrayExamples, Data
from lessen.core.settings import settings
from lessen.data.split import cut, shuffled
from lessen.data.transforms import AnyView


@settings
class Digits:
    """Digits 0 to 9 as standardised images of shape (1, 8, 8), float32.

    Args:
        validation: Share of all the examples to choose settings by.
        test: Share of all the examples to report on. Which ones is fixed, whatever the seed.
        seed: Which of the others are for validation.
        augment: The view of a training batch, or None.
    """

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.15
    test: Annotated[float, Field(gt=0, lt=1)] = 0.25
    seed: int = 0
    augment: AnyView | None = None

    def load(self) -> Data:
        """The three splits, every class in the same share of each.

        Raises:
            DataError: the shares leave nothing to learn from.
        """
        rows = _rows()
        inputs = torch.from_numpy(rows[:, :-1].astype(np.float32)).reshape(-1, 1, 8, 8)
        labels = torch.from_numpy(rows[:, -1].astype(np.int64))
        # The scale is that of the pixels (0 to 16), not of a split, so no split's statistics leak into another.
        inputs = (inputs - 4.9) / 6.0
        order = shuffled(len(labels), labels, seed=0, purpose="test")
        reported = cut(len(labels), self.test, "test")
        test, rest = order[:reported], order[reported:]
        rest = rest[shuffled(len(rest), labels[rest], seed=self.seed, purpose="validation")]
        chosen = cut(len(rest), round(len(labels) * self.validation), "validation")
        return Data(
            train=ArrayExamples(inputs[rest[chosen:]], labels[rest[chosen:]]),
            validation=ArrayExamples(inputs[rest[:chosen]], labels[rest[:chosen]]),
            test=ArrayExamples(inputs[test], labels[test]),
            classes=tuple("0123456789"),
            augment=self.augment,
            name="digits",
        )


def _rows() -> np.ndarray[Any, Any]:
    """A row for each digit: 64 pixels from 0 to 16, then its class.

    They are read from scikit-learn's file. To import it takes seconds, and nothing else of it is used.
    """
    found = importlib.util.find_spec("sklearn")
    file = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz" if found and found.origin else None
    if file is not None and file.is_file():
        return np.loadtxt(file, delimiter=",")
    from sklearn.datasets import load_digits  # a version that keeps it elsewhere

    images, labels = load_digits(return_X_y=True)
    return np.column_stack([images, labels])
