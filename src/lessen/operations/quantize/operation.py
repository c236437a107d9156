"""Post-training quantization to integers, and the network that quantization-aware training starts from.

Jacob et al., CVPR 2018, arXiv:1712.05877; Nagel et al., A White Paper on Neural Network Quantization, 2021,
arXiv:2106.08295. Batch normalisations are folded, weights get a symmetric grid for each output channel, activations one
grid for each edge (`edges`), whose range an observer chooses from calibration examples (`observers`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from annotated_types import Ge, Le
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.core.where import Where, check_where, matches
from lessen.operations.parts.layer_bits import LayerBits, bits_by_name
from lessen.operations.parts.values import write_value
from lessen.operations.quantize.biases import correctable, corrected_biases
from lessen.operations.quantize.edges import find_edges
from lessen.operations.quantize.grids import weight_grid_name
from lessen.operations.quantize.learned import Learned
from lessen.operations.quantize.mixed import Mixed, rounder
from lessen.operations.quantize.network import GRIDS, is_quantized
from lessen.operations.quantize.observers import MinMax, Observer, SquaredError
from lessen.operations.quantize.observing import layer_weights, observe, weight_steps
from lessen.operations.quantize.plan import FULL, Quantized
from lessen.operations.quantize.reconstruction import reconstruct
from lessen.operations.quantize.rounding import Learning
from lessen.operations.quantize.tables import find_tables
from lessen.operations.quantize.target import Chosen, Target, adds_no_pairs, chosen, named
from lessen.surgery.calls import Call, trace
from lessen.surgery.copying import copy_network
from lessen.surgery.fold import fold, foldable
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain

Bits = Annotated[int, Ge(2), Le(8)]
NO_KERNEL = "no runtime has integer kernels for transposed convolutions with groups; `where` quantizes it anyway"


@settings
class Quantize:
    """Compute in integers of a few bits.

    The resulting network rounds as the runtime will, can be trained further (the gradient passes straight through
    the rounding), and is written by `lessen.deploy.export_onnx` with its weights stored as int8.

    Args:
        bits: Bits of the activations, 2 to 8; 32 changes nothing (to quantize weights alone, use `QuantizeWeights`).
        observer: Chooses the range of each activation from its values on the calibration batches.
        weight_bits: Bits of the weights, 2 to 8, or `Mixed` for as many as each layer needs; None: as many as `target`
            allows.
        target: Which processors the file is for. x86 without VNNI adds 8-bit products in 16 bits, so sums with 8-bit
            weights saturate. "any" takes at most 7 bits (8 in depthwise convolutions), which is correct everywhere;
            "vnni" takes up to 8; "this" takes what is correct on the machine that makes the plan, and the plan stores
            the result.
        embedding_bits: Bits of embedding tables, stored as codes with a step for each row; None leaves them unchanged.
        layer_bits: Layers and embeddings, by name, whose weights get other bits than the rest, such as the first and
            last. With `Mixed` the budget covers all other layers.
        weight_observer: Chooses a step for each channel from its weights; the step is then fixed. None lets the step
            follow the largest weight, also in training; if steps or the rounding are learned, None means
            `SquaredError()`.
        rounding: How to learn whether each weight is rounded up or down; None rounds to nearest.
        correct_biases: Whether biases are corrected for the shift that rounding causes in the mean of each channel.
            Leave it off with rounding to nearest at 3 bits or fewer: that rounding also shrinks the spread of a
            channel, layer after layer, and with its mean restored, a ReLU then passes all of the channel or nothing.
            Leave it off on transformers too: on MiniLM the cosine to fp32 fell from 0.9955 to 0.9924.
        learned: Which parameters of the grids (such as steps) are learned when the network is trained; None for none.
        where: Which layers; None is every convolution and linear layer, except transposed convolutions with groups: no
            runtime computes these in integers. ONNX Runtime computes no transposed convolution in integers.
        exclude: Which of them to leave in floating point. With weights of 4 bits or fewer, first and last layers are
            often given more bits; on EfficientNet-Lite0 these two cost more accuracy than all others together.
    """

    bits: Bits | Literal[32] = 8
    observer: Observer = MinMax()
    weight_bits: Bits | Mixed | None = None
    embedding_bits: Bits | None = 8
    layer_bits: tuple[LayerBits, ...] = ()
    target: Target = "any"
    weight_observer: Observer | None = None
    rounding: Learning | None = None
    correct_biases: bool = False
    learned: Learned | None = None
    where: Where = None
    exclude: Where = ()

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:1712.05877 (integer inference), arXiv:2106.08295 (practice); learned steps: arXiv:1902.08153 "
        "(LSQ), arXiv:2004.09576 (LSQ+), arXiv:1805.06085 (PACT); rounding: arXiv:2004.10568 (AdaRound), "
        "arXiv:2102.05426 (BRECQ), arXiv:2203.05740 (QDrop); biases: arXiv:1906.04721; bits for each layer: "
        "arXiv:1911.03852 (HAWQ-V2)",
        says="Weights and activations become 8-bit integers; the runtime multiplies and adds integers.",
        costs="A few calibration passes; learned rounding takes minutes, one small training for each layer or block. "
        "The file is about a quarter as large, also with fewer bits than 8; the time depends on the runtime. "
        "A torch.export program (.pt2) holds weights of 32 bits, and tables in codes of 8.",
        fails_when="Transformers: outliers of activations, unless `Smooth()` comes first; normalisation, softmax and "
        "residuals stay in fp32, and the conversions between may cost more than the integer kernels save. Small "
        "networks whose layers take microseconds.",
        differs="Weight steps follow the largest weight of a channel, also in training, unless an observer chooses "
        "them or they learn. Quantize / dequantize pairs are on every edge between integer operators, not "
        "only before layers. Learned rounding measures errors relative to rounding to nearest, and does not "
        "learn activation steps.",
    )

    def __post_init__(self) -> None:
        idle = [name for name in ("weight_bits", "layer_bits", "rounding", "learned") if getattr(self, name)]
        if self.bits == FULL and idle:
            raise ValueError(
                f"with bits=32 nothing is rounded, so {' and '.join(idle)} would have no effect; to quantize weights "
                "only, use QuantizeWeights"
            )
        if isinstance(self.weight_bits, int) and self.target != "any":
            raise ValueError(
                f"target={self.target!r} and weight_bits={self.weight_bits} both choose the bits of weights; give one "
                "of them"
            )

    @classmethod
    def neutral(cls) -> Self:
        """32 bits: nothing is rounded."""
        return cls(bits=FULL)

    def plan(self, model: nn.Module, context: Context) -> Quantized:
        """Fold, find the edges, and observe them on the calibration batches.

        Raises:
            PlanError: there is nothing to quantize, no calibration batch, or the network is quantized already.
        """
        if self.bits == FULL:
            return Quantized(bits=FULL)
        model = plain(model, context.inputs)
        if is_quantized(model):
            raise PlanError(f"{type(model).__name__} is quantized already. Quantize the network it came from.")
        if not context.calibration:
            raise PlanError("Quantize needs calibration batches to observe ranges, and there are none in the context.")
        check_where(model, where=self.where, exclude=self.exclude)
        if self.rounding is not None:
            check_where(model, blocks=self.rounding.blocks)
        own = copy_network(model).to(context.device).eval()
        inputs = map_inputs(context.inputs, lambda value: value.to(context.device))
        folds = foldable(own, inputs)
        own = fold(own, folds)
        layers: dict[str, None] = {}
        floating: dict[str, str] = {}

        def is_layer(one: Call) -> bool:
            chosen = self._means(own, one.path)
            if chosen and self.where is None and _grouped_transposed(get_module(own, one.path)):
                floating[one.path] = NO_KERNEL
                return False
            if chosen:
                layers[one.path] = None
            return chosen

        seen = trace(own, inputs)
        sites = find_edges(seen, is_layer)
        if not layers:
            narrowed = self.where is not None or self.exclude not in ((), None)
            by = " that `where` and `exclude` leave" if narrowed else ""
            raise PlanError(f"This network has no convolution or linear layer to quantize{by}.")
        tables, floating_tables = list[str](), dict[str, str]()
        if self.embedding_bits is not None:
            tables, floating_tables = find_tables(own, self._chooses)
        own_bits = bits_by_name(own, self.layer_bits, [*layers, *tables])
        rest = [path for path in reversed(layers) if path not in own_bits]
        bits = own_bits | (self._bits(own, rest, context, inputs) if rest else {})
        weights = {path: bits[path] for path in reversed(layers)}
        made_for = self._target()
        widest = max((wide for path, wide in weights.items() if not adds_no_pairs(get_module(own, path))), default=2)
        made_for = named(widest) if widest > made_for.bits else made_for
        steps, left = self._steps(own, inputs, weights)
        values = {f"{GRIDS}.{weight_grid_name(path)}.step": write_value(step) for path, step in steps.items()}
        plan = Quantized(
            bits=self.bits,
            folds=tuple(folds),
            weights=weights,
            tables={path: own_bits.get(path, self.embedding_bits or FULL) for path in tables},
            edges=observe(own, sites, context, self.observer, levels=2**self.bits - 1),
            learned=self.learned,
            moved={} if self.learned is None else {site: source for site, source in sites.items() if site != source},
            channels={path: len(step) for path, step in steps.items()},
            left=floating_tables | floating | left,
            target=made_for.target,
            why=made_for.why,
            values=values or None,
        )
        if self.rounding is not None:
            rounding = dataclasses.replace(self.rounding, steps=1) if context.rehearsal else self.rounding
            found = reconstruct(own, plan.apply(model).to(context.device), seen, rounding, context)
            values |= {
                f"{path}.weight" if path else "weight": write_value(each) for path, each in found.weights.items()
            }
            plan = dataclasses.replace(plan, rounded=found.gains, left=plan.left | found.left, values=values)
        if self.correct_biases:
            chosen = correctable(own, inputs, seen, weights)
            plan = dataclasses.replace(plan, corrected=tuple(chosen), values=values)
            quantized = plan.apply(model).to(context.device)
            biases = corrected_biases(own, quantized, chosen, context)
            values |= {f"{path}.bias" if path else "bias": write_value(each) for path, each in biases.items()}
            plan = dataclasses.replace(plan, values=values)
        return plan

    def _means(self, model: nn.Module, path: str) -> bool:
        return self._chooses(path, get_module(model, path))

    def _chooses(self, path: str, module: nn.Module) -> bool:
        return matches(self.where, path, module) and not matches(self.exclude, path, module)

    def _bits(self, model: nn.Module, layers: list[str], context: Context, inputs: Inputs) -> dict[str, int]:
        """The bits of each layer's weights."""
        made_for = self._target()
        if isinstance(self.weight_bits, int):
            return dict.fromkeys(layers, self.weight_bits)
        most = {path: 8 if adds_no_pairs(get_module(model, path)) else made_for.bits for path in layers}
        if self.weight_bits is None:
            return most
        mixed, seen = self.weight_bits, layer_weights(model, inputs)
        losses = mixed.sensitivity.losses(model, layers, mixed.options, rounder(self._weight_observer()), context)
        sizes = {path: seen[path].numel() if path in seen else _size(model, path) for path in layers}
        return {path: min(bits, most[path]) for path, bits in mixed.assign(losses, sizes).items()}

    def _target(self) -> Chosen:
        """Which processors the plan is for, and the most bits of a weight."""
        return named(self.weight_bits) if isinstance(self.weight_bits, int) else chosen(self.target)

    def _weight_observer(self) -> Observer | None:
        learns = self.learned is not None and self.learned.weights
        if self.weight_observer is None and (learns or self.rounding is not None):
            return SquaredError()
        return self.weight_observer

    def _steps(
        self, model: nn.Module, inputs: Inputs, weights: Mapping[str, int]
    ) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The steps of each layer that has some of its own, and why the others have none."""
        observer = self._weight_observer()
        if observer is None:
            return {}, {}
        seen, steps, left = layer_weights(model, inputs), {}, {}
        for path, bits in weights.items():
            if path in seen:
                steps[path] = weight_steps(seen[path], observer, limit=2 ** (bits - 1) - 1, axis=0)
            else:
                left[path] = "its weight changes from call to call, so its steps follow the weight"
        return steps, left


def _grouped_transposed(module: nn.Module) -> bool:
    return isinstance(module, _ConvTransposeNd) and module.groups > 1


def _size(model: nn.Module, path: str) -> int:
    """Parameters of a layer whose weight changes from call to call."""
    return sum(parameter.numel() for parameter in get_module(model, path).parameters(recurse=False))
