"""Masks on parameters: weights that are gone, and that nothing brings back.

A masked parameter is a parametrisation of PyTorch: whoever reads `module.weight` gets `weight * kept`, so neither
gradients, weight decay, momentum, averaging nor direct writing can revive what was pruned, and no module that reads the
weight of another goes around it. In a state the parameter keeps its plain name, with zeros in it, and the mask is not
written: the plan holds the mask, and the file also loads into a network that was never pruned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lessen.surgery.forms.base import Form, forms_of, parametrise, parametrised, remove_form


class Mask(Form):
    """Multiplies a tensor by a boolean mask of its shape.

    Args:
        kept: True where a weight stays.

    Attributes:
        open: Whether what is masked may come back, as while masks are learned: its value is kept where it is stored,
            and is in the state.
    """

    kept: Tensor

    def __init__(self, kept: Tensor) -> None:
        super().__init__()
        self.register_buffer("kept", kept, persistent=False)
        self.open = False

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.kept

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """What is stored when somebody assigns to the parameter: zeros stay zeros."""
        return tensor * self.kept


def mask_parameter(module: nn.Module, name: str, kept: Tensor) -> None:
    """Mask a parameter of a module, in place. A further mask can only take more away.

    Args:
        module: The owner.
        name: The parameter, as "weight".
        kept: Boolean, the parameter's shape; True where a weight stays.
    """
    known = mask_of(module, name)
    if known is None:
        parametrise(module, name, Mask(kept.to(getattr(module, name).device)))
        if _write_plain not in module._state_dict_hooks.values():
            module.register_state_dict_post_hook(_write_plain)
            module.register_load_state_dict_pre_hook(_read_plain)
    else:
        known.kept = known.kept & kept.to(known.kept.device)
    close_mask(module, name)


def close_mask(module: nn.Module, name: str) -> None:
    """Make what is masked exactly zero where it is stored, for good."""
    mask = mask_of(module, name)
    assert mask is not None
    mask.open = False
    _zero(module, name)


def mask_of(module: nn.Module, name: str) -> Mask | None:
    """The mask on a parameter, or None."""
    return next((step for step in forms_of(module, name) if isinstance(step, Mask)), None)


def masked_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every masked parameter: the path of its module, the module, and the parameter's name."""
    for path, module in model.named_modules():
        for name in parametrised(module):
            if mask_of(module, name) is not None:
                yield path, module, name


def bake_masks(model: nn.Module) -> nn.Module:
    """Turn masked parameters into plain ones with zeros in them, in place, and return the network: to write files."""
    for _, module, name in list(masked_parameters(model)):
        bake_mask(module, name)
    return model


def bake_mask(module: nn.Module, name: str) -> None:
    """Turn one masked parameter of a module into a plain one with zeros in it, in place."""
    _zero(module, name)
    mask = mask_of(module, name)
    assert mask is not None
    remove_form(module, name, mask)


def _open(module: nn.Module, name: str) -> bool:
    mask = mask_of(module, name)
    return mask is not None and mask.open


@torch.no_grad()
def _zero(module: nn.Module, name: str) -> None:
    """Set what is masked to exactly zero where it is stored; what the network computes does not change."""
    mask = mask_of(module, name)
    assert mask is not None
    forms_of(module, name).original.data.masked_fill_(~mask.kept, 0)


def _names(module: nn.Module, prefix: str) -> Iterator[tuple[str, str, str]]:
    for name in parametrised(module):
        if mask_of(module, name) is not None:
            yield name, f"{prefix}parametrizations.{name}.original", f"{prefix}{name}"


def _write_plain(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for name, stored, plain in _names(module, prefix):
        if not _open(module, name):
            _zero(module, name)
        if stored in state:  # not yet renamed by another parametrisation of the same parameter
            state[plain] = state.pop(stored)


def _read_plain(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for _, stored, plain in _names(module, prefix):
        if plain in state:
            state[stored] = state.pop(plain)
