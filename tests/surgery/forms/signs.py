"""A form that lessen does not know, with its twin and an operation that makes it."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from lessen.core import Card, Context, settings
from lessen.core.errors import NetworkError
from lessen.deploy.constants import DOMAIN, Constants, Stored, own_operator, replace
from lessen.deploy.forms import Twin, register
from lessen.deploy.forms import codes as written_codes
from lessen.surgery.forms.base import Form
from lessen.surgery.forms.places import Owners, store
from lessen.surgery.forms.registering import stored
from lessen.surgery.plain import plain, plain_copy


@torch.library.custom_op("own_forms::signed", mutates_args=())
def signed(scales_O1: Tensor, signs_OI: Tensor) -> Tensor:
    return (2 * signs_OI.to(scales_O1.dtype) - 1) * scales_O1


def plain_signed(scales_O1: Tensor, signs_OI: Tensor) -> Tensor:
    return (2 * signs_OI.to(scales_O1.dtype) - 1) * scales_O1


signed.register_fake(lambda scales_O1, signs_OI: torch.empty_like(signs_OI, dtype=scales_O1.dtype))
signed.register_autograd(
    lambda ctx, gradient: ((gradient * (2 * ctx.saved_tensors[0].to(gradient.dtype) - 1)).sum(1, keepdim=True), None),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[1]),
)


class Signs(Form):
    """A weight as a scale for each row and a sign for each number, 1 bit."""

    words: ClassVar[str] = "as signs"
    ending: ClassVar[str] = ".scales"
    of_weights: ClassVar[bool] = False

    signs: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        self.register_buffer("signs", (weight.detach().flatten(1) >= 0).byte())

    def forward(self, scales: Tensor) -> Tensor:
        weight: Tensor = signed(scales, self.signs)
        return weight.reshape(self.shape)

    def right_inverse(self, value: Tensor) -> Tensor:
        if value.shape != (self.shape[0], 1):
            raise NetworkError("A weight of signs cannot be written to.")
        return value

    def file_bits(self, bits: int) -> int:
        return 1

    @classmethod
    def refused(cls, there: Form) -> str:
        return super().refused(there) or ("a sign has no zero" if there.keeps() is not None else "")


def sign_parameter(where: Owners, module: nn.Module, name: str) -> None:
    weight = getattr(module, name).detach()
    store(where, module, name, Signs(weight), weight.flatten(1).abs().mean(1, keepdim=True))


class SignsTwin(Twin):
    """Eight signs in a byte."""

    def translations(self) -> dict[Any, Callable[..., Any]]:
        op = own_operator("Signed", 2)
        return {torch.ops.own_forms.signed.default: op}

    def decompositions(self) -> dict[Any, Callable[..., Any]]:
        return {torch.ops.own_forms.signed.default: plain_signed}

    def operators(self) -> dict[str, Stored]:
        return {"Signed": (lambda node, given: (2 * given[1].astype(np.float32) - 1) * given[0], lambda node: 1)}

    def store(self, constants: Constants) -> None:
        for node in [each for each in constants.graph if each.domain == DOMAIN and each.op_type == "Signed"]:
            scales, signs = node.inputs[0], constants.value(node.inputs[1])
            assert signs is not None
            name, put = node.outputs[0].name, partial(constants.before, node)
            codes = constants.add(f"{name}_signs", written_codes.packed(signs.reshape(1, -1), 1).reshape(-1, 1))
            shifts, one = constants.add("eight", np.arange(8, dtype=np.uint8)[None]), constants.add("one", np.uint8(1))
            parts = put("BitShift", [codes, shifts], name=f"{name}_parts", direction="RIGHT")
            bits = put("BitwiseAnd", [parts, one], name=f"{name}_bits")
            wide = put("Cast", [bits], name=f"{name}_wide", to=ir.DataType.FLOAT.value)
            line = put("Reshape", [wide, constants.add("line", np.array([-1]))], name=f"{name}_line")
            ends = [constants.add(key, np.array([at])) for key, at in (("from", 0), ("to", signs.size))]
            whole = put("Slice", [line, *ends], name=f"{name}_whole")
            shaped = put("Reshape", [whole, constants.add("shape", np.array(signs.shape))], name=f"{name}_shaped")
            twice = put("Mul", [shaped, constants.add("two", np.float32(2))], name=f"{name}_twice")
            both = put("Sub", [twice, constants.add("ones", np.float32(1))], name=f"{name}_both")
            replace(node, put("Mul", [both, scales], name=f"{name}_scaled"))


register(SignsTwin())


@settings
class Signed:
    """The plan of `ToSigns`."""

    names: tuple[str, ...]

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        del values  # signs and scales are in the state, and otherwise follow from the weights
        network = plain_copy(model)
        where = Owners(network)
        for name in self.names:
            sign_parameter(where, network.get_submodule(name), "weight")
        return network

    def describe(self) -> list[dict[str, Any]]:
        row = {"edit": "signs", "before": "32 bits", "after": "1 bit", "stored": "1"}
        return [{"module": f"{name}.weight", **row} for name in self.names]


@settings
class ToSigns:
    """Store the weights of linear layers as signs."""

    card: ClassVar[Card] = Card(row="operations / quantization", paper="none", says="Signs.", costs="Much.",
                                fails_when="Often.")  # fmt: skip

    @classmethod
    def neutral(cls) -> Self:
        return cls()

    def plan(self, model: nn.Module, context: Context) -> Signed:
        model = plain(model, context.inputs)
        names = [name for name, each in model.named_modules() if isinstance(each, nn.Linear)]
        first = {id(stored(model.get_submodule(name), "weight")): name for name in reversed(names)}
        return Signed(names=tuple(name for name in names if name in first.values()))
