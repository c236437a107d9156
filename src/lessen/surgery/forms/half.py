"""Parameters that a network only ever sees in 16 bits.

A short parameter is a parametrisation of PyTorch, as a mask is: whoever reads `module.weight` gets it rounded to 16
bits, in its own type. Behind stands the parameter in full, so that training can move it by less than the last digit;
the gradient passes straight through the rounding. In a state it keeps its plain name.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lessen.surgery.forms.base import Form, forms_of, parametrise, parametrised, stored


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


for _rounding in (float16, bfloat16):
    _rounding.register_fake(torch.empty_like)
    _rounding.register_autograd(lambda ctx, gradient: gradient)


class Short(Form):
    """Rounds a tensor to 16 bits.

    Args:
        brain: Whether to bfloat16 (8 bits of exponent, 7 of fraction) and not float16 (5 and 10).
    """

    def __init__(self, *, brain: bool) -> None:
        super().__init__()
        self.brain = brain

    def forward(self, tensor: Tensor) -> Tensor:
        rounded: Tensor = bfloat16(tensor) if self.brain else float16(tensor)
        return rounded

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """What is stored when somebody assigns to the parameter: the assigned values, rounded."""
        return self.forward(tensor)

    def extra_repr(self) -> str:
        return "bfloat16" if self.brain else "float16"


def shorten_parameter(module: nn.Module, name: str, *, brain: bool) -> None:
    """Let a parameter of a module be seen in 16 bits, in place; it is also rounded where it is stored."""
    short = Short(brain=brain)
    parametrise(module, name, short)
    with torch.no_grad():
        tensor = stored(module, name)
        tensor.copy_(short(tensor))
    if _write_plain not in module._state_dict_hooks.values():
        module.register_state_dict_post_hook(_write_plain)
        module.register_load_state_dict_pre_hook(_read_plain)


def short_of(module: nn.Module, name: str) -> Short | None:
    """The rounding of a parameter, or None."""
    return next((form for form in forms_of(module, name) if isinstance(form, Short)), None)


def short_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Short]]:
    """Every short parameter: the path of its module, the module, the parameter's name, the rounding; tied ones each."""
    for path, module in model.named_modules(remove_duplicate=False):
        for name in parametrised(module):
            short = short_of(module, name)
            if short is not None:
                yield path, module, name, short


def _names(module: nn.Module, prefix: str) -> Iterator[tuple[str, str]]:
    for name in parametrised(module):
        if short_of(module, name) is not None:
            yield f"{prefix}parametrizations.{name}.original", f"{prefix}{name}"


def _write_plain(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    for long, plain in _names(module, prefix):
        if long in state:
            state[plain] = state.pop(long)


def _read_plain(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
    for long, plain in _names(module, prefix):
        if plain in state:
            state[long] = state.pop(plain)
