"""One number that says which network this is, down to the last bit of its weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def digest(model: nn.Module) -> str:
    """The sha256 over the names, shapes, dtypes and bytes of the whole state, as 64 hexadecimal digits.

    It does not depend on the device, the memory layout or the order in which the state was registered. A tensor on the
    meta device has no bytes; only its name, shape and dtype count.

    >>> a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> digest(a) == digest(b), digest(a) == digest(a)
    (False, True)
    """
    total = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            total.update(f"{name}|{value!r}\n".encode())
            continue
        total.update(f"{name}|{tuple(value.shape)}|{value.dtype}\n".encode())
        if not value.is_meta:
            whole = value.detach().cpu().contiguous().reshape(-1)
            if whole.numel():
                total.update(whole.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
