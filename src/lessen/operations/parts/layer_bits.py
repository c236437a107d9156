"""Some layers at other bits than the rest, as the first and the last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from annotated_types import Ge, Le
from torch import nn

from lessen.core.errors import PlanError, did_you_mean
from lessen.core.settings import settings
from lessen.core.where import Where, check_where, matches


@settings
class LayerBits:
    """The bits of the weights of some layers.

    Args:
        where: Which layers.
        bits: Of a weight, 2 to 8.
    """

    where: Where
    bits: Annotated[int, Ge(2), Le(8)]


def bits_by_name(
    model: nn.Module, layer_bits: Sequence[LayerBits], layers: Iterable[str], *, setting: str = "layer_bits"
) -> dict[str, int]:
    """The bits of each of these layers that has bits of its own; where several mean it, the first of them counts.

    Args:
        model: The network.
        layer_bits: As the settings have them.
        layers: The paths of all layers that get bits.
        setting: What they are called there.

    Raises:
        PlanError: a name matches no module, or none of the matches is one of the layers.
    """
    found: dict[str, int] = {}
    paths, modules = list(layers), dict(model.named_modules(remove_duplicate=False))
    for place, one in enumerate(layer_bits):
        check_where(model, **{f"{setting}[{place}].where": one.where})
        meant = [path for path in paths if matches(one.where, path, modules[path])]
        if not meant:
            raise PlanError(
                f"{setting}[{place}].where={one.where!r} matches no layer that is quantized; "
                f"{did_you_mean(str(one.where), paths)}"
            )
        found = dict.fromkeys(meant, one.bits) | found
    return found
