"""Equal ranges in both layers of a pair: the excess range of a channel moves into the next layer.

Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019, arXiv:1906.04721,
section 4.1.

Shapes: O channels between the two layers.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

import torch
from annotated_types import Ge
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.contracts import Context
from lessen.core.data import map_inputs
from lessen.core.settings import settings
from lessen.core.where import Where, check_where
from lessen.operations.parts.values import write_value
from lessen.operations.rescale.rescale import (
    LAYERS,
    Link,
    Links,
    Rescaled,
    find_links,
    input_ranges,
    meant,
    move,
    output_ranges,
    proven,
    said,
)
from lessen.surgery.calls import trace
from lessen.surgery.copying import copy_network
from lessen.surgery.fold import fold, foldable
from lessen.surgery.modules import get_module
from lessen.surgery.plain import plain

_STILL = 1e-4


def equalizing_scale(first_O: Tensor, second_O: Tensor) -> Tensor:
    """What to divide the first layer's channels by, so that both get the range sqrt(first * second), shape (O,).

    1 where a channel is dead on either side.

    >>> equalizing_scale(torch.tensor([4.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 3.0]))
    tensor([2., 1., 1.])
    """
    alive = (first_O > 0) & (second_O > 0)
    one = torch.ones_like(first_O)
    return torch.where(alive, (first_O / torch.where(alive, second_O, one)).sqrt(), one)


@settings
class Equalize:
    """Move scales between layers until no channel's weights are much larger than another's.

    Works on the network in floating point, before it is quantized; what the network computes does not change.

    Args:
        rounds: The maximum number of passes over all pairs of layers.
        where: Which layers may pass scales to the next layer; None for all.
    """

    rounds: Annotated[int, Ge(1)] = 50
    where: Where = None

    card: ClassVar[Card] = Card(
        row="operations / quantization",
        paper="arXiv:1906.04721 (cross-layer equalisation)",
        says="Each channel gets the same weight range in the layer that computes it and in the layer that reads it.",
        costs="Batch normalisations are folded. Seconds, without data; nothing in the shipped model.",
        fails_when="The function between the layers does not scale with its input: ReLU6, GELU, SiLU. Such pairs are "
        "left unchanged and listed. With one step per channel of the weights there is less to gain than "
        "with one per layer.",
        differs="Clips are not rescaled channel by channel, and high biases are not absorbed. Pooling, means and "
        "flattening are allowed between the layers. Each pair is checked in float64 before it is used.",
    )

    @classmethod
    def neutral(cls) -> Self:
        """No pair at all."""
        return cls(where=())

    def plan(self, model: nn.Module, context: Context) -> Rescaled:
        """Find the pairs, prove them, and equalise them in turn until nothing moves.

        Raises:
            PlanError: `where` matches no layer whose scales can move.
        """
        if self.where == ():
            return Rescaled()
        model = plain(model, context.inputs)
        check_where(model, where=self.where)
        inputs = map_inputs(context.inputs, lambda value: value.to(context.device))
        own = copy_network(model).to(context.device).eval()
        folds = foldable(own, inputs)
        own = fold(own, folds)
        links = find_links(own, trace(own, inputs), LAYERS)
        links = proven(own, Links(meant(own, links, self.where), links.left), inputs)
        before = {link.first: spread(own, link) for link in links.found}
        self._equalize(own, links.found)
        return Rescaled(
            folds=tuple(folds) if links.found else (),
            links={link.first: link.then for link in links.found},
            spread={link.first: (before[link.first], spread(own, link)) for link in links.found},
            left=said(links, "no layer reaches another one through operators that only scale"),
            values=tensors_of(own, links.found) or None,
        )

    def _equalize(self, model: nn.Module, links: list[Link]) -> None:
        for _ in range(self.rounds):
            moved = 0.0
            for link in links:
                first_O, second_O = ranges(model, link)
                scale_O = equalizing_scale(first_O, second_O)
                move(model, link, scale_O)
                moved = max(moved, float((scale_O.log()).abs().max()))
            if moved < _STILL:
                return


def ranges(model: nn.Module, link: Link) -> tuple[Tensor, Tensor]:
    """The range of each channel in the layer that makes it and in those that read it, shape (O,) each."""
    first_O = output_ranges(get_module(model, link.first))
    read = [input_ranges(get_module(model, path)).reshape(len(first_O), -1).amax(1) for path in link.then]
    return first_O, torch.stack(read).amax(0)


def spread(model: nn.Module, link: Link) -> float:
    """The largest range of a channel as a multiple of the smallest that is not zero."""
    first_O, _ = ranges(model, link)
    alive = first_O[first_O > 0]
    return float(alive.max() / alive.min()) if len(alive) else 1.0


def tensors_of(model: nn.Module, links: list[Link]) -> dict[str, str]:
    """The tensors that links touch, as values of a plan."""
    paths = dict.fromkeys(path for link in links for path in (link.first, *link.then))
    found = {}
    for path in paths:
        for name in ("weight", "bias"):
            tensor = getattr(get_module(model, path), name, None)
            if tensor is not None:
                found[f"{path}.{name}" if path else name] = write_value(tensor)
    return found
