"""Masks on parameters: weights that are gone, and that nothing brings back.

A masked parameter is a parametrisation of PyTorch: whoever reads `module.weight` gets `weight * kept`, so neither
gradients, weight decay, momentum, averaging nor direct writing can revive what was pruned, and no module that reads the
weight of another goes around it. In a state the parameter keeps its plain name, with zeros in it, and the mask is not
written: the plan holds the mask, and the file also loads into a network that was never pruned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor, nn

from lessen.surgery.forms.base import Form
from lessen.surgery.forms.places import places
from lessen.surgery.forms.registering import bake_form, check_refusal, form_of, parametrise, stored


class Mask(Form):
    """Multiplies a tensor by a boolean mask of its shape.

    Args:
        kept: True where a weight stays.

    Attributes:
        open: Whether what is masked may come back, as while masks are learned: its value is kept where it is stored,
            and is in the state.
    """

    words: ClassVar[str] = "with a mask"
    linear: ClassVar[bool] = True
    baked: ClassVar[bool] = True

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

    def keeps(self) -> Tensor:
        """The mask."""
        return self.kept

    def put_kept(self, kept: Tensor) -> None:
        """Take another mask in the place of this one."""
        self.kept = kept.to(self.kept.device)

    @torch.no_grad()
    def settle(self, stored: Tensor) -> None:
        """Set what is masked to exactly zero, unless it may come back; what the network computes does not change."""
        if not self.open:
            stored.data.masked_fill_(~self.kept, 0)

    def bake(self, stored: Tensor) -> Tensor:
        """The tensor with zeros in it."""
        return stored.masked_fill(~self.kept, 0)

    @classmethod
    def refused(cls, there: Form) -> str:
        """Why a parameter cannot be masked."""
        return there.under_mask()


def mask_parameter(module: nn.Module, name: str, kept: Tensor) -> None:
    """Mask a parameter of a module, in place. A further mask can only take more away.

    Args:
        module: The owner.
        name: The parameter, as "weight".
        kept: Boolean, the parameter's shape; True where a weight stays.

    Raises:
        NetworkError: the parameter is stored in a form that cannot be masked.
    """
    known = mask_of(module, name)
    if known is None:
        check_refusal(module, name, Mask)
        parametrise(module, name, Mask(kept.to(getattr(module, name).device)))
    else:
        known.kept = known.kept & kept.to(known.kept.device)
    close_mask(module, name)


def close_mask(module: nn.Module, name: str) -> None:
    """Make what is masked exactly zero where it is stored, for good."""
    mask = mask_of(module, name)
    assert mask is not None
    mask.open = False
    mask.settle(stored(module, name))


def mask_of(module: nn.Module, name: str) -> Mask | None:
    """The mask on a parameter, or None."""
    return form_of(module, name, Mask)


def masked_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Every masked parameter: the path of its module, the module, and the parameter's name."""
    for path, module, name in places(model):
        if mask_of(module, name) is not None:
            yield path, module, name


def bake_masks(model: nn.Module) -> nn.Module:
    """Turn masked parameters into plain ones with zeros in them, in place, and return the network."""
    for _, module, name in list(masked_parameters(model)):
        mask = mask_of(module, name)
        assert mask is not None
        bake_form(module, name, mask)
    return model
