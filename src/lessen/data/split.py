"""Cut examples off a training split, under a seed and with every class in its share."""

from __future__ import annotations

import torch
from torch import Tensor

from lessen.core.errors import DataError
from lessen.core.seeds import generator


def shuffled(count: int, labels_N: Tensor | None, *, seed: int, purpose: str) -> Tensor:
    """The numbers 0 .. count-1 in a random order in which every class is spread evenly, shape (count,), int64.

    Any piece cut from the order then holds the classes in the shares of the whole. Labels that are not whole numbers
    of one dimension (regression, masks) are not looked at.

    >>> order = shuffled(6, torch.tensor([0, 0, 0, 0, 1, 1]), seed=0, purpose="validation")
    >>> int((order[:3] < 4).sum())
    2
    """
    order_N = torch.randperm(count, generator=generator(seed, "split", purpose))
    if labels_N is None or labels_N.ndim != 1 or labels_N.is_floating_point():
        return order_N
    drawn_N = labels_N[order_N]
    place_N = torch.empty(count, dtype=torch.float64)
    for label in drawn_N.unique():
        members = (drawn_N == label).nonzero().flatten()
        # The i-th of n members stands at (i + 1/2) / n of the way, whatever n is.
        place_N[members] = (torch.arange(len(members), dtype=torch.float64) + 0.5) / len(members)
    return order_N[place_N.argsort(stable=True)]


def cut(count: int, share: float | int, what: str) -> int:
    """How many examples a share (a fraction below 1, or a number of examples) of `count` is.

    Raises:
        DataError: the piece, or what would be left of it, is empty.
    """
    size = share if isinstance(share, int) else round(count * share)
    if not 0 < size < count:
        raise DataError(
            f"Cannot cut a {what} split of {share} from {count} examples: it would hold {size} and leave "
            f"{count - size}. Give more examples, another share, or the split itself."
        )
    return size
