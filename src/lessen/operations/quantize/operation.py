"""Post-training quantization to whole numbers, and the network that quantization-aware training starts from.

Jacob et al., CVPR 2018, arXiv:1712.05877; Nagel et al., A White Paper on Neural Network Quantization, 2021,
arXiv:2106.08295. Batch normalisations are folded, weights get a symmetric grid for each output channel, activations one
grid for each edge (`edges`), whose range an observer chooses from calibration examples (`observers`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import field
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from annotated_types import Ge, Le
from torch import nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.data import Inputs, call, map_inputs
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.core.machine import saturates_int8
from lessen.core.settings import settings
from lessen.core.where import Where, matches
from lessen.operations.quantize.edges import Sites, find_edges
from lessen.operations.quantize.network import Grids, is_quantized, with_grids
from lessen.operations.quantize.observers import MinMax, Percentile, Seen, SquaredError, grid
from lessen.surgery.calls import Call, Place, Watch, floating, trace
from lessen.surgery.fold import Pair, fold, foldable
from lessen.surgery.modules import get_module

Observer = MinMax | Percentile | SquaredError
Bits = Annotated[int, Ge(2), Le(8)]
FULL = 32


@settings
class Quantized:
    """Which batch normalisations to fold, which weights to round, and the grid of every edge.

    Args:
        bits: Of the activations; 32 changes nothing.
        folds: Layers and the normalisations that are folded into them.
        weights: For each layer, by name, the bits of its weights.
        edges: For each site (see `lessen.surgery.calls`) the step of its grid and the code of zero.
    """

    bits: int
    folds: tuple[Pair, ...] = ()
    weights: dict[str, int] = field(default_factory=dict)
    edges: dict[str, tuple[float, int]] = field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A new network that computes on these grids; `model` is not changed."""
        if self.bits == FULL:
            return copy.deepcopy(model)
        if is_quantized(model):
            raise PlanError(f"{type(model).__name__} is quantized already. Quantize the network it came from.")
        names = {name for name, _ in model.named_modules()}
        for name in (*self.weights, *(_module_of(site) for site in self.edges)):
            if name not in names:
                raise PlanError(
                    f"The plan quantizes {name!r}, which {type(model).__name__} does not have: "
                    f"{did_you_mean(name, names)} The plan is of another network."
                )
        try:
            new = fold(model, self.folds, values=values)
        except NetworkError as error:
            raise PlanError(str(error)) from error
        limits = {name: 2 ** (bits - 1) - 1 for name, bits in self.weights.items()}
        place = next((value.device for value in (*new.parameters(), *new.buffers())), torch.device("cpu"))
        return with_grids(new, Grids(self.edges, levels=2**self.bits - 1, limits=limits).to(place))

    def describe(self) -> list[dict[str, Any]]:
        """One row for each layer and each edge."""
        norms = dict(self.folds)
        rows: list[dict[str, Any]] = [
            {
                "module": name,
                "edit": f"folded {norms[name]}, rounded" if name in norms else "rounded",
                "before": "32-bit weights",
                "after": f"{bits}-bit weights, a step for each channel",
            }
            for name, bits in self.weights.items()
        ]
        return rows + [
            {
                "module": site,
                "edit": "grid",
                "before": "32-bit activations",
                "after": f"{self.bits}-bit activations, step {scale:.4g}, zero at {zero}",
            }
            for site, (scale, zero) in self.edges.items()
        ]


@settings
class Quantize:
    """Compute in whole numbers of a few bits.

    The network that comes out rounds as the runtime will, can be trained further (the gradient passes straight through
    the rounding), and is written by `lessen.deploy.export_onnx` with its weights stored as int8.

    Args:
        bits: Of the activations, 2 to 8; 32 changes nothing.
        observer: Chooses the range of each edge from what passes it on the calibration batches.
        weight_bits: Of the weights, 2 to 8; None takes 8, or 7 where the processor adds 8-bit products in 16 bits and
            could overflow (x86 without VNNI).
        where: Which layers; None is every convolution and linear layer.
        exclude: Which of them to leave in floating point.
    """

    bits: Bits | Literal[32] = 8
    observer: Observer = MinMax()
    weight_bits: Bits | None = None
    where: Where = None
    exclude: Where = ()

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:1712.05877 (integer inference), arXiv:2106.08295 (practice)",
        says="Weights and activations become whole numbers of 8 bits; the runtime multiplies and adds integers.",
        costs="A few calibration passes. The file is about a quarter as large; the time is the runtime's affair.",
        fails_when="Transformers: normalisation, softmax and residuals stay in fp32, and the conversions between may "
        "cost more than the integer kernels save. Small networks whose layers take microseconds.",
        differs="Weight steps follow the weights (the largest magnitude of a channel) also in training; papers learn "
        "or freeze them. Pairs stand on every edge between integer operators, not only before layers.",
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
        if is_quantized(model):
            raise PlanError(f"{type(model).__name__} is quantized already. Quantize the network it came from.")
        if not context.calibration:
            raise PlanError(
                "Quantize needs calibration batches to observe ranges on, and there are none in the context."
            )
        own = copy.deepcopy(model).to(context.device).eval()
        inputs = map_inputs(context.inputs, lambda value: value.to(context.device))
        folds = foldable(own, inputs)
        own = fold(own, folds)
        layers: dict[str, None] = {}

        def is_layer(one: Call) -> bool:
            chosen = self._means(own, one.path)
            if chosen:
                layers[one.path] = None
            return chosen

        sites = find_edges(trace(own, inputs), is_layer)
        if not layers:
            raise PlanError("No convolution or linear layer to quantize: check `where` and `exclude`.")
        weight_bits = self.weight_bits or (7 if saturates_int8() else 8)
        return Quantized(
            bits=self.bits,
            folds=tuple(folds),
            weights=dict.fromkeys(reversed(layers), weight_bits),
            edges=self._observe(own, sites, context),
        )

    def _means(self, model: nn.Module, path: str) -> bool:
        module = get_module(model, path)
        return matches(self.where, path, module) and not matches(self.exclude, path, module)

    def _observe(self, model: nn.Module, sites: Sites, context: Context) -> dict[str, tuple[float, int]]:
        seen = {site: Seen() for site in sites.values()}
        _pass_over(model, context, seen, Seen.stretch)
        if self.observer.needs_counts:
            _pass_over(model, context, seen, Seen.count)
        levels = 2**self.bits - 1
        grids = {}
        for site, what in seen.items():
            if what.low > what.high:
                raise PlanError(
                    f"Nothing passed {site!r} on the calibration batches, though it did on the example inputs."
                )
            if not (abs(what.low) < float("inf") and abs(what.high) < float("inf")):
                raise PlanError(
                    f"What passes {site!r} is not finite on the calibration batches. Check data and weights."
                )
            grids[site] = grid(*self.observer.range_of(what, levels=levels), levels=levels)
        return {site: grids[source] for site, source in sites.items()}


class _Observing(Watch):
    """Shows what passes the sites to `look`."""

    def __init__(self, model: nn.Module, look: Callable[[str, Any], None]) -> None:
        super().__init__(model)
        self._look = look

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        result = run(*args, **kwargs)
        self._look(place.site, result)
        return result

    def gives(self, site: str, module: nn.Module, output: Any) -> Any:
        self._look(site, output)
        return output


def _pass_over(
    model: nn.Module, context: Context, seen: dict[str, Seen], observe: Callable[[Seen, torch.Tensor], None]
) -> None:
    """Run the network over the calibration batches and show each site's values to its `Seen`."""

    def look(site: str, values: Any) -> None:
        if site in seen:
            for value in floating(values):
                observe(seen[site], value)

    for batch in context.calibration:
        inputs: Inputs = batch.to(context.device).inputs
        for place, value in enumerate(floating(inputs)):
            look(f"input:{place}", value)
        with torch.no_grad(), _Observing(model, look):
            call(model, inputs)


def _module_of(site: str) -> str:
    """The module that a site belongs to."""
    return "" if site.startswith("input:") else site.partition(":")[0].partition("@")[0]
