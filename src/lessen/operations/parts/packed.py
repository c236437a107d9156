"""Masks as text, one bit per weight, so that a plan is one file of JSON."""

from __future__ import annotations

import base64
import math
import zlib

import numpy as np
import torch
from torch import Tensor

from lessen.core.errors import PlanError


def pack(mask: Tensor) -> str:
    """A boolean mask as text: one bit per weight, compressed, base64.

    >>> bool((unpack(pack(torch.tensor([[True, False, True]])), (1, 3)) == torch.tensor([[True, False, True]])).all())
    True
    """
    bits = np.packbits(mask.cpu().numpy().reshape(-1)).tobytes()
    return base64.b64encode(zlib.compress(bits, 9)).decode("ascii")


def unpack(text: str, shape: tuple[int, ...]) -> Tensor:
    """The mask that `pack` wrote. Empty text: the mask is stored elsewhere (see `without_masks`), all is kept.

    Raises:
        PlanError: the text is damaged, or of a mask of another size.
    """
    count = math.prod(shape)
    if not text:
        return torch.ones(shape, dtype=torch.bool)
    try:
        # A damaged text must not be able to unpack to more memory than the mask it claims to be.
        bits = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), (count + 7) // 8 + 1)
    except (ValueError, zlib.error) as error:
        raise PlanError(f"A mask in the plan is damaged ({error}). Make the plan again.") from error
    if len(bits) != (count + 7) // 8:
        raise PlanError(f"A mask in the plan does not have {count} weights. Make the plan again.")
    return torch.from_numpy(np.unpackbits(np.frombuffer(bits, np.uint8), count=count).astype(bool)).view(shape)
