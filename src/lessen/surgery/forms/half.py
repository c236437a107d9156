"""Parameters that a network only ever sees in 16 bits.

A short parameter is a parametrisation of PyTorch, as a mask is: whoever reads `module.weight` gets it rounded to 16
bits, in its own type. Behind stands the parameter in full, so that training can move it by less than the last digit;
the gradient passes straight through the rounding. In a state it keeps its plain name.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from lessen.surgery.forms.base import Form
from lessen.surgery.forms.registering import check_refusal, parametrise, stored
from lessen.surgery.packing import Known


# A namespace of its own for each of the two: an exporter then knows which it meets.
@torch.library.custom_op("lessen::float16", mutates_args=())
def float16(x: Tensor) -> Tensor:
    """Numbers rounded to float16, in the shape and type they came in.

    >>> float16(torch.tensor([0.1, 1.0]))
    tensor([0.1000, 1.0000])
    """
    return x.half().to(x.dtype)


@torch.library.custom_op("lessen::bfloat16", mutates_args=())
def bfloat16(x: Tensor) -> Tensor:
    """Numbers rounded to bfloat16, in the shape and type they came in.

    >>> bfloat16(torch.tensor([0.1, 1.0]))
    tensor([0.1001, 1.0000])
    """
    return x.bfloat16().to(x.dtype)


def plain_float16(x: Tensor) -> Tensor:
    """`float16` in operators of PyTorch."""
    return x.half().to(x.dtype)


def plain_bfloat16(x: Tensor) -> Tensor:
    """`bfloat16` in operators of PyTorch."""
    return x.bfloat16().to(x.dtype)


_BITS = 16

for _rounding in (float16, bfloat16):
    _rounding.register_fake(torch.empty_like)
    _rounding.register_autograd(lambda ctx, gradient: gradient)


class Short(Form):
    """Rounds a tensor to 16 bits.

    Args:
        brain: Whether to bfloat16 (8 bits of exponent, 7 of fraction) and not float16 (5 and 10).
    """

    words: ClassVar[str] = "in 16 bits"

    def __init__(self, *, brain: bool) -> None:
        super().__init__()
        self.brain = brain

    def forward(self, tensor: Tensor) -> Tensor:
        rounded: Tensor = bfloat16(tensor) if self.brain else float16(tensor)
        return rounded

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """What is stored when somebody assigns to the parameter: the assigned values, rounded."""
        return self.forward(tensor)

    def file_bits(self, bits: int) -> int:
        """16 bits, or fewer if something else stores it so."""
        return min(bits, _BITS)

    def simpler(self, stored: Tensor) -> tuple[Tensor, Known]:
        """The rounded tensor."""
        return self.forward(stored), Known()

    @classmethod
    def refused(cls, there: Form) -> str:
        """Why a parameter cannot be stored in 16 bits."""
        return there.under_half()

    def under_half(self) -> str:
        """Why a parameter in 16 bits cannot be stored in 16 bits again."""
        return "it has 16 bits already"

    def extra_repr(self) -> str:
        return "bfloat16" if self.brain else "float16"


def shorten_parameter(module: nn.Module, name: str, *, brain: bool) -> None:
    """Let a parameter of a module be seen in 16 bits, in place; it is also rounded where it is stored.

    Raises:
        NetworkError: the parameter is stored in a form that cannot be rounded, or has 16 bits already.
    """
    check_refusal(module, name, Short)
    short = Short(brain=brain)
    parametrise(module, name, short)
    with torch.no_grad():
        tensor = stored(module, name)
        tensor.copy_(short(tensor))
