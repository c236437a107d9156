"""Weights of a few bits: a parameter that is stored as codes, with a step and a code of zero for each group of them.

    weight = step * (code - zero)

A coded parameter is a parametrisation of PyTorch, as a mask is: whoever reads `module.weight` gets the weight, so
layers, attention and taps stay what they were. Codes are whole numbers that nothing moves; what is left to train are
the steps, which take the place of the parameter. In a state they are `weight.codes` (uint8), `weight.zeros` (uint8) and
`weight.steps`, and where inputs were scaled `weight.columns`.

Shapes: O rows (all axes but the inputs'), I inputs of a row, G groups of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lessen.core.errors import NetworkError
from lessen.surgery.forms.base import Form
from lessen.surgery.forms.places import Owners, store
from lessen.surgery.packing import Behind, Known


# A namespace of its own: operators of `lessen` work number by number and keep axes, this one does not.
@torch.library.custom_op("lessen_codes::dequantize", mutates_args=())
def dequantize(codes: Tensor, steps: Tensor, zeros: Tensor, *, group: int, gain: float = 1.0) -> Tensor:
    """The weights of codes, shape (O, I), in the type of the steps.

    Args:
        codes: Shape (O, I), uint8.
        steps: Shape (O, G).
        zeros: Shape (O, G), uint8.
        group: How many codes of a row share a step; the last group may be smaller.
        gain: What the gradient of the steps is multiplied by.

    >>> dequantize(torch.tensor([[0, 1, 3]]).byte(), torch.tensor([[0.5, 2.0]]), torch.tensor([[1, 0]]).byte(), group=2)
    tensor([[-0.5000,  0.0000,  6.0000]])
    """
    return (codes.to(steps.dtype) - spread(zeros.to(steps.dtype), codes, group)).mul_(spread(steps, codes, group))


def spread(numbers_OG: Tensor, codes_OI: Tensor, group: int) -> Tensor:
    """The number of each code's group, shape (O, I)."""
    return numbers_OG.repeat_interleave(group, 1)[:, : codes_OI.shape[1]]


@dequantize.register_fake
def _(codes: Tensor, steps: Tensor, zeros: Tensor, *, group: int, gain: float = 1.0) -> Tensor:
    return torch.empty_like(codes, dtype=steps.dtype)


def _remember(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    ctx.group, ctx.gain = keyword_only_inputs["group"], keyword_only_inputs["gain"]
    ctx.save_for_backward(*inputs)


def _gradient(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
    codes, steps, zeros = ctx.saved_tensors
    each_OI = gradient * (codes.to(steps.dtype) - spread(zeros.to(steps.dtype), codes, ctx.group))
    short = steps.shape[1] * ctx.group - codes.shape[1]
    return None, nn.functional.pad(each_OI, (0, short)).unflatten(1, (-1, ctx.group)).sum(2) * ctx.gain, None


dequantize.register_autograd(_gradient, setup_context=_remember)


def plain_dequantize(codes: Tensor, steps: Tensor, zeros: Tensor, *, group: int, gain: float = 1.0) -> Tensor:
    """`dequantize` in operators of PyTorch."""
    return (codes.to(steps.dtype) - spread(zeros.to(steps.dtype), codes, group)) * spread(steps, codes, group)


MULTIPLES = 255
"""Steps that are whole multiples of one number, the largest of them this, take a byte each in files."""


def file_bits(bits: int) -> int:
    """The bits that a code takes in an ONNX or OpenVINO file, which have codes of 2, 4 and 8.

    >>> [file_bits(bits) for bits in range(2, 9)]
    [2, 4, 4, 8, 8, 8, 8]
    """
    return next(width for width in (2, 4, 8) if bits <= width)


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A weight in a few bits.

    Args:
        codes: Shape (O, I), uint8.
        steps: Shape (O, G), floating.
        zeros: Shape (O, G), uint8.
        group: How many codes of a row share a step.
        columns: What each column is multiplied by afterwards, shape (I,); None for 1.
    """

    codes: Tensor
    steps: Tensor
    zeros: Tensor
    group: int
    columns: Tensor | None = None

    def weight(self) -> Tensor:
        """The weight that it stands for, shape (O, I)."""
        found: Tensor = dequantize(self.codes, self.steps, self.zeros, group=self.group)
        return found if self.columns is None else found * self.columns


class Codes(Form):
    """Makes a weight of its steps.

    A step moves many weights, each by several times its own change. As in LSQ (Esser et al., ICLR 2020,
    arXiv:1902.08153, section 2.2), its gradient is therefore multiplied by 1 / sqrt(group * 2^(bits - 1)), so that the
    rate that suits weights suits steps.

    Args:
        coded: The codes.
        bits: Of a code.
        shape: Of the weight.
    """

    words: ClassVar[str] = "as integer codes"
    ending: ClassVar[str] = ".steps"
    of_weights: ClassVar[bool] = False

    codes: Tensor
    zeros: Tensor
    columns: Tensor | None

    def __init__(self, coded: Coded, *, bits: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.bits, self.group, self.shape = bits, coded.group, shape
        self.register_buffer("codes", coded.codes)
        self.register_buffer("zeros", coded.zeros)
        self.register_buffer("columns", coded.columns)

    def forward(self, steps: Tensor) -> Tensor:
        gain = (min(self.group, self.codes.shape[1]) * 2.0 ** (self.bits - 1)) ** -0.5
        weight: Tensor = dequantize(self.codes, steps, self.zeros, group=self.group, gain=gain)
        if self.columns is not None:
            weight = weight * self.columns.to(steps.dtype)
        return weight.reshape(self.shape)

    def right_inverse(self, tensor: Tensor) -> Tensor:
        """Codes are not written from outside; only their steps take the place of the parameter.

        Raises:
            NetworkError: somebody assigned a weight.
        """
        if tensor.shape != self.zeros.shape:
            raise NetworkError(
                f"A weight in {self.bits} bits cannot be written to. Change weights first, and quantize them then."
            )
        return tensor

    def file_bits(self, bits: int) -> int:
        """The bits of a code in a file."""
        return min(bits, file_bits(self.bits))

    def known(self, name: str) -> dict[str, Known]:
        """Codes of zero are the most frequent ones."""
        return {f"{name}.codes": Known(behind=Behind(name=f"{name}.zeros", group=self.group))}

    def under_half(self) -> str:
        """Why a parameter in codes cannot be stored in 16 bits."""
        return "it is stored in codes, whose steps have 16 bits"

    def extra_repr(self) -> str:
        return f"bits={self.bits}, group={self.group}, shape={self.shape}"


def code_parameter(where: Owners, module: nn.Module, name: str, coded: Coded, *, bits: int) -> None:
    """Store a parameter as codes wherever it occurs in a network, in place. A mask on it goes: its zeros are codes.

    Args:
        where: The places of the parameters of the network.
        module: An owner of the parameter.
        name: The parameter, as "weight".
        coded: The codes; their rows are those of the parameter with all axes but the first flattened.
        bits: Of a code.

    Raises:
        NetworkError: the parameter is stored in a form that cannot become codes.
    """
    shape = tuple(getattr(module, name).shape)
    store(where, module, name, Codes(coded, bits=bits, shape=shape), coded.steps)
