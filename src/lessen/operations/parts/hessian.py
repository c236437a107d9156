"""The inputs that multiply the weights of a network, layer by layer, on calibration examples.

The error of a layer's outputs, when its weights change by D, is D H D^T with H = X X^T, the sum over all inputs x of
x x^T. Everything that reconstructs a layer (pruning, rounding) needs H or the inputs themselves.

A weight is taken as rows: shape (G, R, I), G blocks of R output rows, each of which sees I inputs. G is 1 for a linear
layer, the groups for a convolution (whose inputs are patches under its kernel), and 3 for the packed projection of an
attention whose queries, keys and values come from different places.

H is summed in float64: in float32, the small directions that decide what can be removed are noise. Padding does not
count where the inputs say what it is (`attention_mask`).

Shapes: G blocks, R rows, P inputs of a layer (examples times positions), I numbers in each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core import Batch, Inputs
from lessen.core.data import map_inputs
from lessen.core.errors import PlanError
from lessen.functional.unfold import unfold
from lessen.operations.parts.walk import Walk, Walker
from lessen.surgery.attention import open_attention
from lessen.surgery.calls import Place
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.places import Owners, bake
from lessen.surgery.forms.registering import stored

_CONVOLUTIONS = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
_ARGUMENTS = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_LARGEST = 2**22
"""How many numbers of unfolded inputs are in memory at once: 32 MiB in float64."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A weight that is multiplied with inputs in a forward pass.

    Args:
        name: Of the parameter, as "layer1.0.conv1.weight".
        blocks: Into how many blocks of rows it is cut.
        calls: How often a forward pass multiplies with it.
    """

    name: str
    blocks: int
    calls: int


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some of the inputs of a weight.

    Args:
        inputs: For each of B blocks of rows, P inputs: shape (B, P, I), in the type of the network.
        first: The number of the first of these blocks.
        blocks: Into how many blocks the weight is cut here.
    """

    inputs: Tensor
    first: int
    blocks: int


@dataclass(kw_only=True)
class Gram:
    """Sums over the inputs of a weight, in float64.

    Args:
        gram: The sum of x x^T for each block of rows, shape (G, I, I).
        sum: The sum of x, shape (G, I).
        count: How many inputs there were, shape (G,), int64.
    """

    gram: Tensor
    sum: Tensor
    count: Tensor


def rows_of(weight: Tensor, blocks: int) -> Tensor:
    """A weight (O, ...) as rows, shape (G, R, I).

    >>> rows_of(torch.zeros(8, 3, 5, 5), 2).shape
    torch.Size([2, 4, 75])
    """
    return weight.reshape(blocks, weight.shape[0] // blocks, -1)


def layers_of(model: nn.Module, inputs: Inputs, names: Iterable[str]) -> dict[str, Layer]:
    """Those of the named parameters that a linear layer or a convolution multiplies with, in the order of the calls.

    Args:
        model: The network; it is not changed.
        inputs: Example inputs.
        names: Of parameters, as "layer1.weight"; a tied one by one of its names.
    """
    found: dict[str, Layer] = {}

    def see(name: str, piece: Piece) -> None:
        known = found.get(name)
        blocks = max(piece.blocks, 1 if known is None else known.blocks)
        found[name] = Layer(name=name, blocks=blocks, calls=1 if known is None else known.calls + 1)

    place = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    with InputsOfLayers(model, names, [inputs], device=place, whole=True) as walk:
        walk.see_all(see)
    return found


class InputsOfLayers(Walk["_Look"]):
    """Shows what some weights of a network are multiplied with, one after another, while they are changed.

        with InputsOfLayers(model, layers, batches, device=device) as inputs:
            for name, layer in layers.items():
                gram = inputs.gram(layer)
                ...                         # change the weight of `model`
                inputs.changed([name])      # what is behind it sees the new one

    The network runs in eval mode, as a copy. A pass ends where the last of the weights has been seen, and waits there.
    Memory is bounded: large inputs come in several pieces. For what waits, see `lessen.operations.parts.walk`.

    Args:
        model: The network; only its owner changes it.
        names: Of weights; from `layers_of`.
        batches: Calibration examples.
        device: Where to compute.
        whole: Whether all inputs of a call come in one piece.
    """

    def __init__(
        self,
        model: nn.Module,
        names: Iterable[str],
        batches: Iterable[Inputs],
        *,
        device: torch.device,
        whole: bool = False,
    ) -> None:
        self.names = list(names)
        super().__init__([map_inputs(inputs, lambda value: value.to(device)) for inputs in batches], self.names)
        self._model, self._device, self.whole = model, device, whole
        self.weights: dict[str, str] = {}
        self.show: Callable[[str, Piece], None] = _ignore
        self.calls = 0

    def prepare(self) -> nn.Module:
        places = Owners(self._model)
        for name in self.names:
            path, _, last = name.rpartition(".")
            tensor = stored(self._model.get_submodule(path), last)
            self.weights |= {owner_path: name for owner_path, _, its in places.of(tensor) if its == last}
        self._runs = open_attention(bake(copy_network(self._model)).to(self._device)).eval()
        return self._runs

    def watch(self, model: nn.Module, inputs: Inputs) -> _Look:
        return _Look(self, model, inputs)

    def see(self, layer: Layer, see: Callable[[str, Piece], None]) -> None:
        """Show the inputs of one weight, piece by piece, batch by batch.

        Args:
            layer: From `layers_of`.
            see: Called with the name of the weight and a piece of its inputs.

        Raises:
            PlanError: there is no batch.
        """
        self.show, self.calls = see, layer.calls
        if not self.go(layer.name):
            raise PlanError(
                "This method needs calibration batches to observe the inputs of layers, and the context has none."
            )

    def see_all(self, see: Callable[[str, Piece], None]) -> None:
        """Show the inputs of all weights, in the order in which they multiply."""
        self.show, self.calls = see, 0
        self.go(None)

    def gram(self, layer: Layer) -> Gram:
        """H of one weight, on the device; as `see`. Eight bytes times G I I."""
        sums: dict[tuple[int, int], tuple[Tensor, Tensor, int]] = {}

        def see(name: str, piece: Piece) -> None:
            for number, inputs_PI in enumerate(piece.inputs.double(), start=piece.first):
                key = (piece.blocks, number)
                gram_II, sum_I, count = inputs_PI.T @ inputs_PI, inputs_PI.sum(0), len(inputs_PI)
                if key in sums:
                    before = sums[key]
                    gram_II, sum_I, count = before[0].add_(gram_II), before[1].add_(sum_I), before[2] + count
                sums[key] = gram_II, sum_I, count

        self.see(layer, see)
        return _join(layer, sums)

    def changed(self, names: Iterable[str]) -> None:
        for name in (names := list(names)):
            path, _, last = name.rpartition(".")
            new, runs = (stored(model.get_submodule(path), last) for model in (self._model, self._runs))
            with torch.no_grad():
                runs.copy_(new)
        super().changed(names)


def gram_of(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch], *, device: torch.device
) -> dict[str, Gram]:
    """H of some layers of a network that does not change meanwhile, by the name of the weight, on `device`.

    Raises:
        PlanError: there is no batch.
    """
    inputs = [batch.inputs for batch in batches]
    with InputsOfLayers(model, [layer.name for layer in layers], inputs, device=device) as walk:
        return {layer.name: walk.gram(layer) for layer in layers}


def _join(layer: Layer, sums: Mapping[tuple[int, int], tuple[Tensor, Tensor, int]]) -> Gram:
    """The sums of each block; what was seen of larger blocks counts for each of those inside."""
    grams: list[Tensor] = []
    totals: list[Tensor] = []
    counts: list[int] = []
    for number in range(layer.blocks):
        mine = [found for (blocks, block), found in sums.items() if number * blocks // layer.blocks == block]
        if not mine:
            raise PlanError(f"{layer.name} received no input on the calibration batches. Exclude it.")
        grams.append(torch.stack([found[0] for found in mine]).sum(0) if len(mine) > 1 else mine[0][0])
        totals.append(torch.stack([found[1] for found in mine]).sum(0))
        counts.append(sum(found[2] for found in mine))
    gram_GII = torch.stack(grams) if len(grams) > 1 else grams[0].unsqueeze(0)
    return Gram(gram=gram_GII, sum=torch.stack(totals), count=torch.tensor(counts))


def _ignore(name: str, piece: Piece) -> None:
    """Nobody asks for inputs."""


class _Look(Walker):
    """Shows the inputs of weights while a network runs, and waits where it has shown all of the one that is wanted."""

    def __init__(self, walk: InputsOfLayers, model: nn.Module, inputs: Inputs) -> None:
        super().__init__(walk, model, inputs)
        self._layers = walk
        self._modules = dict(model.named_modules())
        self._parts: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._keep_NL = _keep(inputs)

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = self._layers.weights.get(place.path)
        if name is not None and (place.op == "linear" or place.op in _CONVOLUTIONS):
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            full = getattr(self._modules[place.path], name.rpartition(".")[2])
            if given["weight"].shape[1:] == full.shape[1:]:
                self._multiplies(name, place, given, full.shape[0] // given["weight"].shape[0])
        return super().function(place, run, args, kwargs)

    def _multiplies(self, name: str, place: Place, given: dict[str, Any], blocks: int) -> None:
        # An attention with several inputs multiplies with a part of its packed projection for each, in their order.
        first = self._parts[place.path] % blocks
        self._parts[place.path] += blocks > 1
        if self._layers.wanted in {None, name}:
            pieces = self._linear(given, first, blocks) if place.op == "linear" else self._convolution(place, given)
            for piece in pieces:
                self._layers.show(name, piece)
            self._seen[name] += 1
        self.past.add(name)
        if self._seen[name] == self._layers.calls and self._layers.wanted == name:
            if not self.shares(given["weight"], name):
                self.read.add(name)
            self.halt()
        if name in self._layers.waiting:
            self.read.add(name)

    def _linear(self, given: dict[str, Any], first: int, blocks: int) -> Iterator[Piece]:
        inputs_PI = self._counting(given["input"])
        size = len(inputs_PI) if self._layers.whole else _LARGEST // inputs_PI.shape[1]
        for part_PI in inputs_PI.split(max(1, size)):
            yield Piece(inputs=part_PI.unsqueeze(0), first=first, blocks=blocks)

    def _convolution(self, place: Place, given: dict[str, Any]) -> Iterator[Piece]:
        axes, kernel, groups = _CONVOLUTIONS[place.op], given["weight"].shape[2:], given.get("groups", 1)
        inputs = given["input"] if given["input"].ndim == axes + 2 else given["input"].unsqueeze(0)
        size = len(inputs) if self._layers.whole else _LARGEST // (inputs[:1].numel() * math.prod(kernel))
        padding: Any = given.get("padding", 0)
        for part in inputs.split(max(1, size)):
            patches_GPI = unfold(
                part,
                kernel,
                stride=_each(given.get("stride", 1), axes),
                padding=padding if isinstance(padding, str) else _each(padding, axes),
                dilation=_each(given.get("dilation", 1), axes),
                groups=groups,
            )
            yield Piece(inputs=patches_GPI, first=0, blocks=groups)

    def _counting(self, inputs: Tensor) -> Tensor:
        """The inputs of a linear layer that count, shape (P, I)."""
        keep_NL = self._keep_NL
        if keep_NL is not None and inputs.shape[:-1] in {keep_NL.shape, (keep_NL.numel(),)}:
            return inputs[keep_NL.view(inputs.shape[:-1])]
        return inputs.reshape(-1, inputs.shape[-1])


def _keep(inputs: Inputs) -> Tensor | None:
    """Which tokens count, boolean (N, L), where the inputs say so."""
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    return None if mask is None or mask.ndim != 2 else mask.bool()


def _each(value: Any, axes: int) -> list[int]:
    return [int(value)] * axes if isinstance(value, int) else [int(one) for one in value]
