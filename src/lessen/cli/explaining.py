"""What `lessen explain` does: a network in, the groups of channels that can be pruned out, and what cannot and why."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from lessen.cli.measuring import pair
from lessen.core.data import Inputs
from lessen.core.errors import ExportError, SettingError
from lessen.report.loading import sizes_in_words
from lessen.surgery.coupling import Coupling, Group, analyse, multiply_adds, parameter_count
from lessen.surgery.coupling.formula import Formula

IMAGES = (3, 224, 224)
"""What networks of torchvision take, and those of timm that do not say otherwise."""

Explanation = dict[str, Any]


def explained(
    model: str, data: str | None, shape: str | None, *, weights: Path | None, pairs: Sequence[str]
) -> Explanation:
    """Which groups of channels a network has, what one index of each costs, and what cannot be removed and why.

    Args:
        model: The network, as `zoo.build` takes it.
        data: The data whose examples it takes; None where `shape` says it.
        shape: The shape of one example, as "3,224,224"; None where it is known.
        weights: A file of weights; they change nothing but must fit.
        pairs: Arguments of the network, as "width=32".

    Raises:
        LessenError: there is no such network or data, they do not fit together, or the network cannot be exported.
    """
    from lessen.deploy.deployment import file_axes
    from lessen.zoo import build

    if data is not None and shape is not None:
        raise SettingError("--data and --shape both define the network's inputs; give only one of them.")
    network = build(model, weights=weights, **dict(pair(text) for text in pairs)).eval()
    inputs, count = _inputs(model, network, data, shape)
    coupling = analyse(network, inputs)
    try:
        sizes = file_axes(network, inputs).to_json()
    except ExportError as error:  # its channels can be explained all the same
        sizes = {"inputs": {}, "fixed": str(error)}
    whole = (parameter_count(coupling, network, {}), multiply_adds(coupling, {}) // count)
    return {
        "model": model,
        "parameters": whole[0],
        "multiply_adds": whole[1],
        "sizes": sizes,
        "groups": [_group(group, coupling, network, whole, count) for group in coupling.groups.values()],
        "pinned": [{"tensor": name, "axis": dim, "reason": why} for (name, dim), why in coupling.pinned.items()],
    }


def show_explanation(found: Explanation, console: Console) -> None:
    """One line a group, then what is left alone, by reason."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("group", "size", "parameters", "multiply-adds"):
        table.add_column(name, justify="left" if name == "group" else "right", overflow="fold")
    table.add_column("shared by", overflow="fold")
    for group in found["groups"]:
        figures = (group["size"], group["parameters_of_one"], group["multiply_adds_of_one"])
        table.add_row(Text(group["name"]), *(f"{figure:,}" for figure in figures), Text(_shared(group)))
    console.print(f"{found['model']}: {found['parameters']:,} parameters, {found['multiply_adds']:,} multiply-adds.")
    sizes = found["sizes"]
    told = f"An exported file. {sizes_in_words(sizes)}" if sizes["inputs"] else f"No file: {sizes['fixed']}"
    console.print(Text(told))
    if found["groups"]:
        console.print("Removed together with one index of a group:")
        console.print(table)
    else:
        console.print("No channels of this network can be pruned.")
    reasons: dict[str, list[str]] = {}
    for row in found["pinned"]:
        reasons.setdefault(row["reason"], []).append(f"{row['tensor']}[{row['axis']}]")
    if reasons:
        console.print("Not pruned, as parameter[axis]:")
    for reason, places in reasons.items():
        more = f" and {len(places) - _MOST} more" if len(places) > _MOST else ""
        console.print(Text(f"  {reason}: {', '.join(places[:_MOST])}{more}"))


LARGEST = 1 << 26
"""Numbers of an example that `--shape` may ask for."""
_MOST = 6
"""Places that are named of one reason; `--json` names all."""


def _inputs(model: str, network: nn.Module, data: str | None, shape: str | None) -> tuple[Inputs, int]:
    """Two examples, so that the batch is told from axes of size 1, and how many they are."""
    if data is not None:
        from lessen.data import load

        return load(data).example(2), 2
    sizes = _sizes(shape) if shape is not None else _known(model, network)
    if sizes is None:
        raise SettingError(
            f"The inputs of {model} are not known. Give --shape, as --shape 3,32,32, or --data, as --data digits."
        )
    return torch.rand(2, *sizes), 2


def _sizes(shape: str) -> tuple[int, ...]:
    parts = [part.strip() for part in shape.replace("x", ",").split(",")]
    sizes = tuple(int(part) if part.isascii() and part.isdigit() and len(part) < 10 else 0 for part in parts)
    if not 0 < math.prod(sizes) <= LARGEST:
        raise SettingError(
            f"--shape {shape!r:.100} is no shape of one example; expected integers, as 3,224,224, of {LARGEST:,} "
            "numbers together at most."
        )
    return sizes


def _known(model: str, network: nn.Module) -> tuple[int, ...] | None:
    config = getattr(network, "pretrained_cfg", None)
    if isinstance(config, dict) and isinstance(config.get("input_size"), tuple):
        return tuple(map(int, config["input_size"]))
    return IMAGES if model.startswith(("torchvision:", "timm:")) else None


def _group(group: Group, coupling: Coupling, network: nn.Module, whole: tuple[int, int], count: int) -> dict[str, Any]:
    fewer = {group.name: group.size - 1}
    return {
        "name": group.name,
        "size": group.size,
        "parameters_of_one": whole[0] - parameter_count(coupling, network, fewer),
        "multiply_adds_of_one": whole[1] - multiply_adds(coupling, fewer) // count,
        "members": [
            {"tensor": one.tensor, "axis": one.dim, "layout": written(one.layout), "read": one.consumes}
            for one in group.members
        ],
    }


def written(layout: Formula) -> str:
    """How an axis is made of groups, for people.

    >>> written([["a", 49], [8]])
    'a * 49 + 8'
    >>> written([[3, [["a"], ["b"]]]])
    '3 * (a + b)'
    """
    return " + ".join(
        " * ".join(f"({written(factor)})" if isinstance(factor, list) else str(factor) for factor in term)
        for term in layout
    )


def _shared(group: dict[str, Any]) -> str:
    """The modules that have a part in a group: those that make its channels, then those that read them."""
    sides: tuple[dict[str, None], dict[str, None]] = ({}, {})
    for member in group["members"]:
        sides[member["read"]][member["tensor"].rpartition(".")[0] or member["tensor"]] = None
    made, read = (", ".join(names) for names in sides)
    return f"{made}; read by {read}" if read else made
