"""Linear layers and LSTMs in integers whose activations find their grid while they run.

Nothing is observed beforehand: each layer looks at what it is given, from the smallest to the largest value, and rounds
it to 8 bits; its weights are rounded once. This is DynamicQuantizeLinear and MatMulInteger of ONNX, and for LSTMs
DynamicQuantizeLSTM of ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le
from torch import nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.data import map_inputs
from lessen.core.errors import PlanError, did_you_mean
from lessen.core.settings import settings
from lessen.core.usable import usable
from lessen.core.where import Where, check_where, matches
from lessen.operations.quantize.edges import LAYERS
from lessen.operations.quantize.found import LEVELS
from lessen.operations.quantize.grids import Grids
from lessen.operations.quantize.network import is_quantized, with_grids
from lessen.operations.quantize.target import Target, chosen, named, row, said, stored_bits
from lessen.surgery.calls import Call, trace
from lessen.surgery.copying import copy_network
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain, plain_copy

_RECURRENT = "recurrent layers compute in 32 bits, except LSTMs; Half() stores their weights in 16"
_PROJECTED = "there is no integer kernel with projections, so it computes in 32 bits; Half() stores its weights in 16"


@settings
class QuantizedDynamically:
    """Which linear layers and LSTMs compute in integers.

    Args:
        weights: For each layer, by name, the bits of its weights.
        target: Which processors the weights add up right on: any, or those with VNNI.
        why: Why that target, for people.
        left: The recurrent layers that compute in 32 bits as before, and why.
    """

    weights: dict[str, Annotated[int, Ge(1), Le(32)]] = field(default_factory=dict)
    target: Literal["any", "vnni"] = "any"
    why: str = ""
    left: dict[str, str] = field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A new network that computes so; `model` is not changed, and `values` changes nothing.

        Raises:
            PlanError: the network has no layer of such a name, or is quantized already.
        """
        del values
        if not self.weights:
            return plain_copy(model)
        model = usable(model)
        if is_quantized(model):
            raise PlanError(f"{type(model).__name__} is quantized already. Quantize the network it came from.")
        names = {name for name, _ in model.named_modules()}
        for name in self.weights:
            if name not in names:
                raise PlanError(
                    f"The plan quantizes {name!r}, which {type(model).__name__} does not have: "
                    f"{did_you_mean(name, names)} The plan is of another network."
                )
        limits = {name: 2 ** (bits - 1) - 1 for name, bits in self.weights.items()}
        return with_grids(plain_copy(model), Grids({}, levels=LEVELS, limits=limits, dynamic=True))

    def describe(self) -> list[dict[str, Any]]:
        """One row for each layer."""
        rows: list[dict[str, Any]] = [
            {
                "module": name,
                "edit": "rounded; what it is given is rounded at run time",
                "before": "32-bit weights",
                "after": f"{said(bits)}, a step for each channel",
                "stored": str(stored_bits(bits)),
            }
            for name, bits in self.weights.items()
        ]
        rows += [{"module": name, "edit": "left alone", "before": why, "after": ""} for name, why in self.left.items()]
        return [*rows, row(self.target, self.why)] if self.weights else rows


@settings
class QuantizeDynamic:
    """Compute linear layers and LSTMs in integers; the ranges of their inputs are measured while the network runs.

    Needs no data. The resulting network rounds as the runtime will, and its file holds int8 weights. In an LSTM it
    rounds all weights and the input of the first layer; ONNX Runtime also rounds the hidden states at each time step
    and the inputs of further layers. OpenVINO has no such kernel: its file holds an LSTM's weights in int8, and
    multiplies in floating point.

    Args:
        weight_bits: Bits of the weights, 2 to 8; None: as many as `target` allows.
        target: Which processors the file is for, as in `Quantize`.
        where: Which layers; None is every linear layer and every LSTM without projections.
        exclude: Which of them to leave in floating point.
    """

    weight_bits: Annotated[int, Ge(2), Le(8)] | None = None
    target: Target = "any"
    where: Where = None
    exclude: Where = ()

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="ONNX operators DynamicQuantizeLinear and MatMulInteger; DynamicQuantizeLSTM of ONNX Runtime",
        says="Linear layers and LSTMs multiply integers; the range of their inputs is measured in each run.",
        costs="No calibration. Weights of these layers take a quarter of the bytes. Each layer first measures its "
        "range and rounds: with small layers or batches, the file is slower than fp32. "
        "A torch.export program (.pt2) holds 32 bits.",
        fails_when="The network is convolutional, or made of GRUs: these stay in 32 bits. The range covers the whole "
        "batch: one outlier makes the grid coarser for all examples, and an example's outputs depend on the others.",
        differs="As ONNX Runtime computes it, with a step for each output channel of the weights.",
    )

    def __post_init__(self) -> None:
        if self.weight_bits is not None and self.target != "any":
            raise ValueError(
                f"target={self.target!r} and weight_bits={self.weight_bits} both choose the bits of weights; give one "
                "of them"
            )

    @classmethod
    def neutral(cls) -> Self:
        """No layer at all."""
        return cls(where=())

    def plan(self, model: nn.Module, context: Context) -> QuantizedDynamically:
        """Find the linear layers and LSTMs.

        Raises:
            PlanError: there are none, or the network is quantized already.
        """
        if self.where == ():
            return QuantizedDynamically()
        model = plain(model, context.inputs)
        if is_quantized(model):
            raise PlanError(f"{type(model).__name__} is quantized already. Quantize the network it came from.")
        check_where(model, where=self.where, exclude=self.exclude)
        own = copy_network(model).to(context.device).eval()
        seen = trace(own, map_inputs(context.inputs, lambda value: value.to(context.device)))
        paths = dict.fromkeys(one.path for one in seen.calls if _has_kernel(own, one) and one.inputs[0] is not None)
        mixed = {one.path for one in seen.calls if one.op in LAYERS and one.op != "linear"}
        made_for = chosen(self.target) if self.weight_bits is None else named(self.weight_bits)
        weights = {path: made_for.bits for path in paths if path not in mixed and self._means(own, path)}
        left = {
            path: f"{type(module).__name__}: {_PROJECTED if getattr(module, 'proj_size', 0) else _RECURRENT}"
            for path, module in own.named_modules()
            if isinstance(module, nn.RNNBase | nn.RNNCellBase) and path not in weights and self._means(own, path)
        }
        if not weights:
            raise PlanError(
                "This network has no linear layer and no LSTM to quantize. Check `where`, `exclude`; convolutions need "
                "Quantize()." + "".join(f" {path}: {why}." for path, why in left.items())
            )
        return QuantizedDynamically(weights=weights, target=made_for.target, why=made_for.why, left=left)

    def _means(self, model: nn.Module, path: str) -> bool:
        module = get_module(model, path)
        return matches(self.where, path, module) and not matches(self.exclude, path, module)


def _has_kernel(model: nn.Module, one: Call) -> bool:
    """Whether a call is one that a runtime computes in integers, with what it is given rounded at run time."""
    if one.op == "linear":
        return True
    module = get_module(model, one.path) if one.op == "lstm" else None
    return isinstance(module, nn.LSTM) and not module.proj_size
