"""Datasets that draw random numbers for each item: whether two looks at an example show the same."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch

from lessen.core.content import Content
from lessen.core.errors import DataError
from lessen.core.examples import Examples, SubsetExamples
from lessen.core.seeds import drawing_from

LOOKED = 4
"""Examples of a split that are looked at twice."""


def check_looks(splits: Mapping[str, Examples]) -> None:
    """Look at a few examples to be evaluated on several times; say so where they are drawn anew in training.

    What an item draws follows from a seed (see `core.seeds.Drawing`), so evaluation, verification and caches see one
    fixed draw of each example.

    Raises:
        DataError: two looks under one seed differ, so nothing could be compared on these examples.
    """
    drawn = []
    for name in ("validation", "test"):
        examples = splits[name]
        base: Examples = examples
        while isinstance(base, SubsetExamples):
            base = base.examples
        if hasattr(type(base), "content"):  # known by what it holds
            continue
        first, again, *others = (_look(examples, seed) for seed in (0, 0, 1, 2))
        if first != again:
            raise DataError(
                f"Two looks at the same examples of the {name} split differ, and no seed decides how. Results on them "
                "cannot be compared. Draw from the generators of torch, numpy.random or random (or one that the "
                "dataset holds), or give validation and test splits without random augmentation."
            )
        if any(other != first for other in others):
            drawn.append(name)
    if drawn:
        warnings.warn(
            f"The dataset of the {' and '.join(drawn)} split draws random numbers for each item (as augmentation "
            "does). Training sees a new draw in each pass; evaluation, verification and caches see one fixed draw of "
            "each example. To evaluate examples as they are, give {'train': ..., 'validation': ..., 'test': ...} with "
            "datasets of their own.",
            stacklevel=3,
        )


def _look(examples: Examples, seed: int) -> str:
    content = Content()
    with drawing_from(seed):
        content.inputs(examples.fetch(torch.arange(min(LOOKED, len(examples)))).inputs)
    return content.hexdigest()
