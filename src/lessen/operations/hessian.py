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

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core import Batch, Inputs
from lessen.core.data import call, map_inputs
from lessen.core.errors import PlanError
from lessen.functional.unfold import unfold
from lessen.surgery.attention import open_attention
from lessen.surgery.calls import Place, Watch
from lessen.surgery.copying import copy_network
from lessen.surgery.masks import bake_masks
from lessen.surgery.parametrised import Owners, stored

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
    wanted = list(names)
    found: dict[str, Layer] = {}

    def see(name: str, piece: Piece) -> None:
        known = found.get(name)
        blocks = max(piece.blocks, 1 if known is None else known.blocks)
        found[name] = Layer(name=name, blocks=blocks, calls=1 if known is None else known.calls + 1)

    place = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    _look(model, wanted, [map_inputs(inputs, lambda value: value.to(place))], see, device=place, whole=True)
    return found


def see_inputs(
    model: nn.Module,
    layers: Sequence[Layer],
    batches: Iterable[Batch],
    see: Callable[[str, Piece], None],
    *,
    device: torch.device,
) -> None:
    """Run batches through a network, and show what some of its weights are multiplied with.

    Each pass ends where the last of these layers has been seen. Memory is bounded: large inputs come in several pieces.

    Args:
        model: The network; it is not changed, and runs in eval mode.
        layers: Which weights; from `layers_of`.
        batches: Calibration examples.
        see: Called with the name of a weight and a piece of its inputs.
        device: Where to compute.

    Raises:
        PlanError: there is no batch.
    """
    calls = sum(layer.calls for layer in layers)
    inputs = (batch.inputs for batch in batches)
    if not _look(model, [layer.name for layer in layers], inputs, see, device=device, calls=calls):
        raise PlanError(
            "This method needs calibration batches to observe the inputs of layers, and the context has none."
        )


def gram_of(
    model: nn.Module, layers: Sequence[Layer], batches: Iterable[Batch], *, device: torch.device
) -> dict[str, Gram]:
    """H of some layers, by the name of the weight, on `device`; as `see_inputs`. Eight bytes times G I I for each."""
    sums: dict[tuple[str, int, int], tuple[Tensor, Tensor, int]] = {}

    def see(name: str, piece: Piece) -> None:
        for number, inputs_PI in enumerate(piece.inputs.double(), start=piece.first):
            key = (name, piece.blocks, number)
            gram_II, sum_I, count = inputs_PI.T @ inputs_PI, inputs_PI.sum(0), len(inputs_PI)
            if key in sums:
                before = sums[key]
                gram_II, sum_I, count = before[0].add_(gram_II), before[1].add_(sum_I), before[2] + count
            sums[key] = gram_II, sum_I, count

    see_inputs(model, layers, batches, see, device=device)
    return {layer.name: _join(layer, sums) for layer in layers}


def _join(layer: Layer, sums: Mapping[tuple[str, int, int], tuple[Tensor, Tensor, int]]) -> Gram:
    """The sums of each block; what was seen of larger blocks counts for each of those inside."""
    grams: list[Tensor] = []
    totals: list[Tensor] = []
    counts: list[int] = []
    for number in range(layer.blocks):
        mine = [
            found
            for (name, blocks, block), found in sums.items()
            if name == layer.name and number * blocks // layer.blocks == block
        ]
        if not mine:
            raise PlanError(f"{layer.name} received no input on the calibration batches. Exclude it.")
        grams.append(torch.stack([found[0] for found in mine]).sum(0) if len(mine) > 1 else mine[0][0])
        totals.append(torch.stack([found[1] for found in mine]).sum(0))
        counts.append(sum(found[2] for found in mine))
    gram_GII = torch.stack(grams) if len(grams) > 1 else grams[0].unsqueeze(0)
    return Gram(gram=gram_GII, sum=torch.stack(totals), count=torch.tensor(counts))


class _Enough(Exception):  # noqa: N818  (not an error: the rest of the pass is not needed)
    """Everything that was wanted has been seen."""


class _Look(Watch):
    """Shows the inputs of weights while a network runs."""

    def __init__(
        self, model: nn.Module, weights: Mapping[str, str], see: Callable[[str, Piece], None], *, whole: bool
    ) -> None:
        super().__init__(model)
        self._modules = dict(model.named_modules())
        self._weights = weights
        self._see = see
        self._whole = whole
        self._parts: Counter[str] = Counter()
        self.keep_NL: Tensor | None = None
        self.left = -1

    def function(self, place: Place, run: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        name = self._weights.get(place.path)
        if name is not None and (place.op == "linear" or place.op in _CONVOLUTIONS):
            given = dict(zip(_ARGUMENTS, args, strict=False)) | kwargs
            full = getattr(self._modules[place.path], name.rpartition(".")[2])
            if given["weight"].shape[1:] == full.shape[1:]:
                blocks = full.shape[0] // given["weight"].shape[0]
                pieces = self._linear(place, given, blocks) if place.op == "linear" else self._convolution(place, given)
                for piece in pieces:
                    self._see(name, piece)
                self.left -= 1
                if self.left == 0:
                    raise _Enough
        return run(*args, **kwargs)

    def _linear(self, place: Place, given: dict[str, Any], blocks: int) -> Iterator[Piece]:
        # An attention with several inputs multiplies with a part of its packed projection for each, in their order.
        first = self._parts[place.path] % blocks
        self._parts[place.path] += blocks > 1
        inputs_PI = self._counting(given["input"])
        size = len(inputs_PI) if self._whole else _LARGEST // inputs_PI.shape[1]
        for part_PI in inputs_PI.split(max(1, size)):
            yield Piece(inputs=part_PI.unsqueeze(0), first=first, blocks=blocks)

    def _convolution(self, place: Place, given: dict[str, Any]) -> Iterator[Piece]:
        axes, kernel, groups = _CONVOLUTIONS[place.op], given["weight"].shape[2:], given.get("groups", 1)
        inputs = given["input"] if given["input"].ndim == axes + 2 else given["input"].unsqueeze(0)
        size = len(inputs) if self._whole else _LARGEST // (inputs[:1].numel() * math.prod(kernel))
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
        keep_NL = self.keep_NL
        if keep_NL is not None and inputs.shape[:-1] in {keep_NL.shape, (keep_NL.numel(),)}:
            return inputs[keep_NL.view(inputs.shape[:-1])]
        return inputs.reshape(-1, inputs.shape[-1])


def _look(
    model: nn.Module,
    names: Sequence[str],
    batches: Iterable[Inputs],
    see: Callable[[str, Piece], None],
    *,
    device: torch.device,
    calls: int = -1,
    whole: bool = False,
) -> int:
    """Run the batches; how many there were."""
    weights: dict[str, str] = {}
    places = Owners(model)
    for name in names:
        path, _, last = name.rpartition(".")
        tensor = stored(model.get_submodule(path), last)
        weights |= {owner_path: name for owner_path, _, its in places.of(tensor) if its == last}
    own = open_attention(bake_masks(copy_network(model)).to(device)).eval()
    count = 0
    for inputs in batches:
        count += 1
        here = map_inputs(inputs, lambda value: value.to(device))
        with torch.no_grad(), _Look(own, weights, see, whole=whole) as look:
            look.left = calls
            look.keep_NL = _keep(here)
            with contextlib.suppress(_Enough):
                call(own, here)
    return count


def _keep(inputs: Inputs) -> Tensor | None:
    """Which tokens count, boolean (N, L), where the inputs say so."""
    mask = inputs.get("attention_mask") if isinstance(inputs, dict) else None
    return None if mask is None or mask.ndim != 2 else mask.bool()


def _each(value: Any, axes: int) -> list[int]:
    return [int(value)] * axes if isinstance(value, int) else [int(one) for one in value]
