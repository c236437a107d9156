"""A network as one compressed file, and back: pruned weights by their places, low-bit weights in their bits.

The file holds the plans that lead from the original network to this one, without what its tensors say already, and, if
it is known, how the original is built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lessen.core.bounds import ROOM
from lessen.core.contracts import Plan
from lessen.core.errors import RunError, WeightsError
from lessen.operations.parts.values import without_masks
from lessen.pipeline.folder import RunFolder
from lessen.pipeline.load import load
from lessen.pipeline.plans import decode_plans, encode_plans, follow, read_plans
from lessen.surgery.copying import copy_network
from lessen.surgery.forms.stored import put_kept, stored_state
from lessen.surgery.packing import read_container, write_container
from lessen.zoo.weights import check_tensors

NAME = "packed.safetensors"
LARGER = 4096
"""How many times as large as its packed file a network may be."""


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was written.

    Args:
        path: The file.
        bytes: Its size on the disk.
        tensors: The bytes that each tensor takes in it.
    """

    path: Path
    bytes: int
    tensors: dict[str, int]


def pack(
    model: nn.Module,
    path: str | Path,
    *,
    plans: Sequence[Plan] = (),
    build: Mapping[str, Any] | None = None,
    coded: bool = True,
) -> Packed:
    """Write a network to one compressed file, whole or not at all.

    Args:
        model: The network; it is not changed.
        path: The file, ending in `.safetensors`.
        plans: What was done to the original network, in order.
        build: How the original is built, as a recipe says it; None where only the caller knows.
        coded: Whether frequent numbers may take fewer bits than rare ones.

    Raises:
        WeightsError: a tensor is of a type that cannot be written.
    """
    path = Path(path)
    state, known = stored_state(model)
    kept = encode_plans([without_masks(plan) for plan in plans])
    more = {"plans": kept, "build": None if build is None else dict(build)}
    tensors = write_container(path, state, known=known, more=more, coded=coded)
    return Packed(path=path, bytes=path.stat().st_size, tensors=tensors)


def pack_run(
    run: str | Path, network: nn.Module, out: str | Path | None = None, *, allow_import: bool = False
) -> Packed:
    """Write the network of a run to one compressed file.

    Args:
        run: The folder of the run.
        network: Freshly built, as the one that was compressed had been; its weights do not matter.
        out: The file; None for `packed.safetensors` in the folder.
        allow_import: Whether the modules of plans from outside lessen may be imported, which executes them.

    Raises:
        RunError: the folder is not a run, the run has not come to its end, or the file is there already.
    """
    folder = RunFolder(run)
    path = folder.path / NAME if out is None else Path(out)
    model = load(folder.path, network, allow_import=allow_import)
    if out is not None and path.exists():
        raise RunError(f"{path} already exists. Choose another name for the file.")
    recipe = folder.read_recipe()
    build = recipe.get("student") or recipe.get("network") or {}
    named = {key: build[key] for key in ("build", "arguments") if key in build} if "build" in build else None
    return pack(model, path, plans=read_plans(folder.plan), build=named)


def unpack(path: str | Path, network: nn.Module, *, allow_import: bool = False) -> nn.Module:
    """The network in a compressed file, in eval mode; nothing in the file is executed.

    Args:
        path: The file.
        network: Freshly built, as the original had been; its weights do not matter. It is not changed.
        allow_import: Whether the modules of plans from outside lessen may be imported, which executes them.

    Raises:
        WeightsError: the file is damaged, or of another network.
        PlanError: the plans in it do not belong to this network.
    """
    contents = read_container(Path(path))
    plans = decode_plans(contents.more.get("plans"), allow_import=allow_import)
    made = follow(copy_network(network), plans, str(path))
    # Before anything is unpacked: a file never takes more memory than the network that it claims to be.
    expected = {name: torch.empty(shape, device="meta") for name, shape in contents.shapes().items()}
    check_tensors(made, expected, source=str(path))
    tensors = contents.unpack()
    made.load_state_dict({name: tensor for name, (tensor, _) in tensors.items()}, strict=True)
    put_kept(made, {name: kept for name, (_, kept) in tensors.items() if kept is not None})
    return made.eval()


def build_of(path: str | Path) -> tuple[dict[str, Any], int]:
    """How the original of a compressed file is built, as a recipe says it; and how many bytes it may take.

    The bytes are a multiple of those of the file, far above what compression reaches: a short file cannot ask for a
    network that fills the memory.

    Raises:
        WeightsError: the file is damaged, or does not say it.
    """
    path = Path(path)
    found = read_container(path).more.get("build")
    if not found:
        raise WeightsError(
            f"{path} does not tell how to build its network. Call lessen.load({str(path)!r}, network) with the network "
            "that was compressed, freshly built."
        )
    if (
        not isinstance(found, dict)
        or not set(found) <= {"build", "arguments"}
        or not isinstance(found.get("build"), str)
    ):
        raise WeightsError(f"{path} contains {found!r:.200}, which does not build a network. Get the file again.")
    return dict(found), LARGER * path.stat().st_size + ROOM
