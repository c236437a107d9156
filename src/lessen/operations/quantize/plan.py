"""What is quantized, as data; and quantizing it."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.core.settings import settings
from lessen.core.usable import usable
from lessen.operations.parts.values import put_values
from lessen.operations.quantize.grids import Grids, WeightGrid
from lessen.operations.quantize.learned import Learned
from lessen.operations.quantize.network import is_quantized, with_grids
from lessen.operations.quantize.tables import code_tables
from lessen.operations.quantize.target import row, said, stored_bits
from lessen.surgery.fold import Pair, fold
from lessen.surgery.forms.codes import file_bits
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain_copy

FULL = 32
WidthOfPlan = Annotated[int, Ge(1), Le(FULL)]
"""Bits in a plan, which may come from a file."""


@settings
class Quantized:
    """Which batch normalisations to fold, which weights to round, and the grid of every edge.

    Args:
        bits: Of the activations; 32 changes nothing.
        folds: Layers and the normalisations that are folded into them.
        weights: For each layer, by name, the bits of its weights.
        tables: For each embedding whose table is stored in codes, by name, their bits.
        edges: For each site (see `lessen.surgery.calls`) the step of its grid and the code of zero.
        learned: Which of these numbers learn when the network is trained.
        moved: Of sites that keep the grid of another one, that other; noted where grids learn.
        channels: For each layer whose weights have steps of their own, how many.
        rounded: For each layer whose weights were rounded by what that does to its output, how much smaller its error
            is than that of rounding to the nearest, in percent, for people.
        corrected: Layers whose biases take back what rounding did to the mean of each channel.
        left: What was left as it is, and why.
        target: Which processors the weights add up right on: any, or those with VNNI.
        why: Why that target, for people.
        values: Steps, and weights on their grids, by name; None where there are none, or where they are in the file of
            the weights.
    """

    bits: WidthOfPlan
    folds: tuple[Pair, ...] = ()
    weights: dict[str, WidthOfPlan] = field(default_factory=dict)
    tables: dict[str, Annotated[int, Ge(2), Le(8)]] = field(default_factory=dict)
    edges: dict[str, tuple[float, int]] = field(default_factory=dict)
    learned: Learned | None = None
    moved: dict[str, str] = field(default_factory=dict)
    channels: dict[str, int] = field(default_factory=dict)
    rounded: dict[str, float] = field(default_factory=dict)
    corrected: tuple[str, ...] = ()
    left: dict[str, str] = field(default_factory=dict)
    target: Literal["any", "vnni"] = "any"
    why: str = ""
    values: dict[str, str] | None = None

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A new network that computes on these grids; `model` is not changed.

        Raises:
            PlanError: the plan is of another network, or its values are not in it.
        """
        if self.bits == FULL:
            return plain_copy(model)
        model = usable(model)
        if is_quantized(model):
            raise PlanError(f"{type(model).__name__} is quantized already. Quantize the network it came from.")
        names = {name for name, _ in model.named_modules()}
        for name in (*self.weights, *self.tables, *(_module_of(site) for site in self.edges)):
            if name not in names:
                raise PlanError(
                    f"The plan quantizes {name!r}, which {type(model).__name__} does not have: "
                    f"{did_you_mean(name, names)} The plan is of another network."
                )
        try:
            new = fold(model, self.folds, values=values)
        except NetworkError as error:
            raise PlanError(str(error)) from error
        for name, count in self.channels.items():
            weight = getattr(get_module(new, name), "weight", None)
            if name not in self.weights or not isinstance(weight, Tensor) or count not in weight.shape[:2]:
                raise PlanError(f"The plan has {count} steps for {name!r}, which does not have as many channels.")
        code_tables(new, self.tables, values=values)
        place = next((value.device for value in (*new.parameters(), *new.buffers())), torch.device("cpu"))
        new = with_grids(new, self._grids().to(place))
        for path in self.corrected:
            _give_bias(get_module(new, path))
        if values and (self.channels or self.rounded or self.corrected):
            put_values(new, self.values)
        return new

    def _grids(self) -> Grids:
        levels = 2**self.bits - 1
        limits = {name: 2 ** (bits - 1) - 1 for name, bits in self.weights.items()}
        edges: dict[str, Any] = {site: found for site, found in self.edges.items() if site not in self.moved}
        learns = False
        if self.learned is not None:
            edges = {site: self.learned.grid(*found, levels=levels) for site, found in edges.items()}
            learns = self.learned.weights
        steps = {
            name: WeightGrid(torch.ones(count), limit=limits[name], learns=learns)
            for name, count in self.channels.items()
        }
        return Grids(edges, levels=levels, limits=limits, weights=steps, same=self.moved)

    def describe(self) -> list[dict[str, Any]]:
        """One row for each layer and each edge."""
        norms: dict[str, str] = {}
        for layer, norm in self.folds:
            norms[layer] = f"{norms[layer]}, {norm}" if layer in norms else norm
        rows: list[dict[str, Any]] = []
        for name, bits in self.weights.items():
            edit = f"folded {norms[name]}, rounded" if name in norms else "rounded"
            if name in self.rounded:
                edit += f" by its output, error {self.rounded[name]:.0f} % smaller"
            if name in self.corrected:
                edit += ", bias corrected"
            steps = "a step for each channel"
            if name in self.channels and self.learned is not None:
                steps = "a learned step for each channel"
            rows.append(
                {
                    "module": name,
                    "edit": edit,
                    "before": "32-bit weights",
                    "after": f"{said(bits)}, {steps}; biases of 32 bits",
                    "stored": str(stored_bits(bits)),
                }
            )
        rows += [
            {
                "module": name,
                "edit": "table in codes",
                "before": "32-bit table",
                "after": f"{bits}-bit table, a step for each row",
                "stored": str(file_bits(bits)),
            }
            for name, bits in self.tables.items()
        ]
        rows += [
            {
                "module": site,
                "edit": "grid" if self.learned is None else "learned grid",
                "before": "32-bit activations",
                "after": f"{self.bits}-bit activations, step {scale:.4g}, zero at {zero}",
            }
            for site, (scale, zero) in self.edges.items()
        ]
        rows += [{"module": name, "edit": "as it is", "before": why, "after": ""} for name, why in self.left.items()]
        return [*rows, row(self.target, self.why)] if self.weights else rows


def _give_bias(layer: Any) -> None:
    """A bias of zeros, where a layer has none."""
    if layer.bias is None:
        count = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
        layer.bias = nn.Parameter(layer.weight.new_zeros(count), requires_grad=layer.weight.requires_grad)


def _module_of(site: str) -> str:
    """The module that a site belongs to."""
    return "" if site.startswith("input:") else site.partition(":")[0].partition("@")[0]
