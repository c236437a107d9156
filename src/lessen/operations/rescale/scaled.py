"""A linear layer that multiplies its inputs first: where what makes them is read by others too, as behind a post-norm.

Shapes: I inputs, O outputs.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core.errors import NetworkError
from lessen.surgery.forms.half import float16


class ScaledLinear(nn.Linear):
    """y = W (scale * x) + b.

    The buffer `scale`, shape (I,), is in the state with the weight and the bias; in files it takes 16 bits a number.
    """

    scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * float16(self.scale), self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, scaled"


def give_scale(layer: nn.Module) -> None:
    """Make a plain linear layer a scaled one, in place, with a scale of ones; names and tensors stay.

    Raises:
        NetworkError: it is no plain linear layer.
    """
    if type(layer) is not nn.Linear:
        raise NetworkError(f"Expected a plain linear layer to put a multiplication before, got {type(layer).__name__}.")
    layer.register_buffer("scale", layer.weight.detach().new_ones(layer.in_features))
    layer.__class__ = ScaledLinear
