"""An operation with a stored form of its own: ternary weights (Li, Zhang & Liu 2016, arXiv:1605.04711, section 2)."""

from typing import Any, ClassVar, Self

from torch import Tensor, nn

from lessen.core import Card, Context, Where, matches, settings
from lessen.core.errors import NetworkError
from lessen.surgery.forms import Form, Owners, store
from lessen.surgery.plain import plain, plain_copy


class TernaryForm(Form):
    """A weight as -1, 0 or 1 for each number (a buffer) and a scale for each row, which is stored and learns."""

    words: ClassVar[str] = "in three values"  # "it is stored in three values"
    ending: ClassVar[str] = ".scales"  # what is stored is called weight.scales in a state
    of_weights: ClassVar[bool] = False  # what is stored is not a weight for each weight
    codes: Tensor

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.register_buffer("codes", codes)

    def forward(self, stored: Tensor) -> Tensor:
        return self.codes.to(stored.dtype) * stored

    def right_inverse(self, value: Tensor) -> Tensor:
        if value.shape != (len(self.codes), 1):
            raise NetworkError("A ternary weight cannot be assigned to.")
        return value


@settings
class TernaryPlan:
    """Which weights become ternary. Their codes and scales are in the state; `apply` makes the places for them."""

    names: tuple[str, ...]

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        network = plain_copy(model)
        owners = Owners(network)
        for name in self.names:
            weight = network.get_submodule(name).weight.detach()
            large = weight.abs() > 0.7 * weight.abs().mean(1, keepdim=True)
            scales = (weight.abs() * large).sum(1, keepdim=True) / large.sum(1, keepdim=True).clamp(min=1)
            store(owners, network.get_submodule(name), "weight", TernaryForm((weight.sign() * large).char()), scales)
        return network

    def describe(self) -> list[dict[str, Any]]:
        return [{"module": name, "edit": "ternary", "before": "32 bits", "after": "1.6 bits"} for name in self.names]


@settings
class Ternary:
    """Store the weights of linear layers as -1, 0 and 1 times a scale for each output.

    Args:
        where: Which layers: a name, a pattern as "layer*", a class, several of these, or all (None).
    """

    where: Where = None

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:1605.04711",
        says="Weights are -1, 0 or 1 times a scale for each output.",
        costs="Accuracy, until the scales are trained.",
        fails_when="Layers are narrow, or the head is among them.",
    )

    def plan(self, model: nn.Module, context: Context) -> TernaryPlan:
        layers = {name: each for name, each in plain(model, context.inputs).named_modules() if type(each) is nn.Linear}
        return TernaryPlan(names=tuple(name for name, each in layers.items() if matches(self.where, name, each)))

    @classmethod
    def neutral(cls) -> Self:
        return cls(where=())
