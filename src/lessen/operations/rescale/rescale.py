"""Scales that move from one layer to the next: the ranges of values change, the function of the network does not.

If a layer's output channels are divided by s and what reads them multiplies by s, the network computes the same, as
long as all that lies between scales with its input: f(x / s) = f(x) / s for s > 0.

Shapes: O output channels, I input channels, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Inputs
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.core.seeds import generator
from lessen.core.settings import settings
from lessen.core.where import Where, matches
from lessen.operations.parts.values import put_values
from lessen.operations.rescale.scaled import give_scale
from lessen.surgery.calls import Call, Trace
from lessen.surgery.copying import copy_network
from lessen.surgery.fold import Pair, fold
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import parametrised, stored
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain_copy
from lessen.surgery.proof import Proof, those_that_hold

LAYERS = frozenset({"conv1d", "conv2d", "conv3d", "linear"})
NORMS = frozenset({"layer_norm", "rms_norm"})
SCALING = frozenset(
    {"relu", "leaky_relu", "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d"}
    | {"adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "mean", "flatten"}
    | {"dropout", "dropout2d", "contiguous", "detach", "clone"}
)
"""What scales with its input, channel by channel, and keeps channels in their order."""

_KINDS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Link:
    """A layer or a normalisation, and all that read its channels.

    Args:
        first: Whose channels are divided.
        then: What multiplies.
    """

    first: str
    then: tuple[str, ...]


@dataclass
class Links:
    """The links of a network, and what cannot be one, with the reason."""

    found: list[Link] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


@settings
class Rescaled:
    """Tensors whose scales were moved; the function of the network is the same.

    Args:
        folds: Layers and the batch normalisations that are folded into them before.
        links: For each layer or normalisation whose channels were divided, what multiplies instead.
        scaled: For each input that others read too, named by its normalisation or its first layer, the linear layers
            that multiply it by a number for each channel before they use it.
        spread: For each, the largest range of a channel as a multiple of the smallest, before and after, for people.
        left: What was left alone, and why.
        values: The tensors, by name.
    """

    folds: tuple[Pair, ...] = ()
    links: dict[str, tuple[str, ...]] = field(default_factory=dict)
    scaled: dict[str, tuple[str, ...]] = field(default_factory=dict)
    spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    values: dict[str, str] | None = None

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A new network with the scales moved; `model` is not changed.

        Raises:
            PlanError: the plan is of another network, or its values are not in it.
        """
        try:
            new = fold(model, self.folds, values=values) if self.folds else plain_copy(model)
            for path in self.links:
                get_module(new, path)
            for path in (path for layers in self.scaled.values() for path in layers):
                give_scale(get_module(new, path))
        except NetworkError as error:
            raise PlanError(f"The plan does not belong to this network. {error}") from error
        if values and (self.links or self.scaled):
            put_values(new, self.values)
        return new

    def describe(self) -> list[dict[str, Any]]:
        """One row for each layer or normalisation whose scales moved."""
        rows: list[dict[str, Any]] = []
        edits = [(path, f"scales moved into {', '.join(then)}") for path, then in self.links.items()]
        edits += [(path, f"multiplied before {', '.join(then)}") for path, then in self.scaled.items()]
        for path, edit in edits:
            before, after = self.spread.get(path, (float("nan"), float("nan")))
            rows.append(
                {
                    "module": path,
                    "edit": edit,
                    "before": f"ranges of channels differ {before:.3g} times",
                    "after": f"{after:.3g} times",
                }
            )
        return rows + [
            {"module": name, "edit": "left alone", "before": why, "after": ""} for name, why in self.left.items()
        ]


def find_links(model: nn.Module, seen: Trace, makers: frozenset[str]) -> Links:
    """Which calls of these functions give their channels to layers alone, through nothing but what scales.

    Args:
        model: The network.
        seen: What it computes.
        makers: The functions to start from, of `LAYERS` or `NORMS`.
    """
    links, readers, owners = Links(), seen.consumers(), Owners(model)
    for one in seen.calls:
        if one.op not in makers or not _movable(model, owners, seen, one.path):
            continue
        then, reason = _readers(model, owners, seen, one, readers)
        if reason:
            links.left[one.path] = reason
        elif then:
            links.found.append(Link(one.path, tuple(then)))
    return links


def find_inputs(model: nn.Module, seen: Trace, links: Links, where: Where, before: Where) -> list[Link]:
    """The inputs of plain linear layers that no link scales: a name, and the layers that read each.

    Args:
        model: The network.
        seen: What it computes.
        links: Normalisations that are found scale what they give themselves. Those that are left and have an input here
            are taken out of `left`.
        where: Of which normalisations.
        before: Before which layers, whatever gives them their input.
    """
    owners, makers = Owners(model), seen.makers()
    linked = {path for link in links.found for path in link.then}
    groups: dict[int, list[str]] = {}
    for one in seen.calls:
        number = one.inputs[0] if one.op == "linear" else None
        if number is None or one.path in linked or type(get_module(model, one.path)) is not nn.Linear:
            continue
        norm = makers[number].path if number in makers and makers[number].op in NORMS else None
        by_norm = norm is not None and matches(where, norm, get_module(model, norm))
        if (by_norm or matches(before, one.path, get_module(model, one.path))) and _movable(
            model, owners, seen, one.path
        ):
            groups.setdefault(number, []).append(one.path)
    found: list[Link] = []
    for number, layers in groups.items():
        maker = makers.get(number)
        norm = maker.path if maker is not None and maker.op in NORMS else ""
        named = norm and seen.times[norm] == 1 and all(link.first != norm for link in found)
        found.append(Link(norm if named else layers[0], tuple(layers)))
        links.left.pop(norm, None)
    return found


def meant(model: nn.Module, links: Links, where: Where) -> list[Link]:
    """Those links whose first is meant.

    Raises:
        PlanError: `where` matches none, nor one that was left alone.
    """
    chosen = [link for link in links.found if matches(where, link.first, get_module(model, link.first))]
    others = [path for path in links.left if matches(where, path, get_module(model, path))]
    if not chosen and not others and where is not None:
        known = [*(link.first for link in links.found), *links.left]
        raise PlanError(f"where={where!r} matches nothing whose scales can move; {did_you_mean(str(where), known)}")
    return chosen


def _readers(
    model: nn.Module, owners: Owners, seen: Trace, one: Call, readers: Mapping[int, Sequence[Call]]
) -> tuple[list[str], str]:
    """The layers that read what a call gives, or why it cannot be scaled."""
    then: list[str] = []
    open_ends = [one.outputs[0]]
    while open_ends:
        number = open_ends.pop()
        if number in seen.outputs:
            return [], "" if not then else "it is also an output of the network"
        for reader in readers.get(number, []):
            if reader.op in LAYERS and reader.inputs[0] == number and reader.inputs.count(number) == 1:
                if not _movable(model, owners, seen, reader.path):
                    return [], f"{reader.path} reads it, and is not a plain layer with weights of its own"
                then.append(reader.path)
            elif reader.op in SCALING and (reader.op != "mean" or one.op not in NORMS):
                open_ends += reader.outputs
            else:
                return [], f"{reader.op} follows it, and does not scale with its input or mixes channels"
    return then, ""


def _movable(model: nn.Module, owners: Owners, seen: Trace, path: str) -> bool:
    module = get_module(model, path)
    return (type(module) in _KINDS or (bool(parametrised(module)) and isinstance(module, _KINDS))) and (
        seen.times[path] == 1
        and isinstance(getattr(module, "weight", None), Tensor)
        and len(owners.of(stored(module, "weight"))) == 1
    )


def output_ranges(layer: nn.Module) -> Tensor:
    """The largest magnitude of the weights of each output channel, shape (O,)."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    return weight.abs().flatten(1).amax(1) if weight.ndim > 1 else weight.abs()


def input_ranges(layer: nn.Module) -> Tensor:
    """The largest magnitude of the weights that read each input channel, shape (I,)."""
    weight_GOI = _by_group(layer)
    return weight_GOI.abs().amax((1, 3)).flatten()


def divide_outputs(layer: nn.Module, scale_O: Tensor) -> None:
    """Divide what a layer or an affine normalisation gives by a number for each channel, in place."""
    for name in ("weight", "bias"):
        tensor = getattr(layer, name, None)
        if tensor is not None:
            kept = stored(layer, name)
            kept.data = tensor.detach() / scale_O.reshape(-1, *[1] * (tensor.ndim - 1)).to(tensor)


def multiply_inputs(layer: nn.Module, scale_I: Tensor) -> None:
    """Let a layer multiply each of its input channels by a number, in place."""
    weight_GOI = _by_group(layer)
    groups, _, inputs, _ = weight_GOI.shape
    kept = stored(layer, "weight")
    kept.data = (weight_GOI * scale_I.reshape(groups, 1, inputs, 1).to(weight_GOI)).reshape(kept.shape)


def _by_group(layer: nn.Module) -> Tensor:
    """A layer's weight, shape (G, O / G, I / G, kernel)."""
    weight: Tensor = layer.weight.detach()  # type: ignore[operator]
    groups = int(getattr(layer, "groups", 1))
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def move(model: nn.Module, link: Link, scale_O: Tensor) -> None:
    """Divide the channels of the first and multiply them in what follows, in place.

    A linear layer behind a flattened map reads each channel several times, one after another.
    """
    divide_outputs(get_module(model, link.first), scale_O)
    for path in link.then:
        layer = get_module(model, path)
        multiply_inputs(layer, repeated(scale_O, layer))


def repeated(value_O: Tensor, layer: nn.Module) -> Tensor:
    """One number for each input channel of a layer that reads each of O channels as often, one after another."""
    weight: Tensor = layer.weight  # type: ignore[assignment]
    inputs = weight.shape[1] * int(getattr(layer, "groups", 1))
    return value_O.repeat_interleave(inputs // len(value_O))


def said(links: Links, nothing: str) -> dict[str, str]:
    """What was left alone, and why; where there was nothing at all, that."""
    return links.left if links.found or links.left else {"": nothing}


def proven(model: nn.Module, links: Links, inputs: Inputs) -> Links:
    """The links across which a scale can be moved without a change of the outputs, tried in float64.

    Each link is tried with scales of its own, so that two wrong ones do not make up for each other.
    """
    proof = Proof(model, inputs)

    def holds(some: Sequence[Link]) -> bool:
        trial = copy_network(proof.model)
        try:
            for link in some:
                weight: Tensor = get_module(trial, link.first).weight  # type: ignore[assignment]
                drawn = torch.rand(len(weight), generator=generator(0, "link", link.first), dtype=torch.float64)
                move(trial, link, (0.5 + 1.5 * drawn).to(weight))
        except RuntimeError:
            return False
        return proof.holds(trial)

    kept = Links(found=those_that_hold(links.found, holds), left=dict(links.left))
    for link in links.found:
        if link not in kept.found:
            kept.left[link.first] = "moving a scale across it changes the outputs"
    return kept
