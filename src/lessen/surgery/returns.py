"""Networks that return a tree of tensors, for readers that know only dicts."""

from __future__ import annotations

from typing import Any

from torch import nn

from lessen.core.tree import is_several, parts


def give_parts(model: nn.Module) -> nn.Module:
    """Let a network return a dict of its outputs by name (`core.tree.parts`), in place; one tensor stays one.

    Args:
        model: The network, a copy that the caller owns. It is returned.
    """
    model.register_forward_hook(_parts)
    return model


def _parts(_module: nn.Module, _given: Any, returned: Any) -> Any:
    return parts(returned) if is_several(returned) else returned
