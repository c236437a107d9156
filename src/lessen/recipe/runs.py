"""Runs by their folder alone: the recipe in it says which network, which data and which steps.

A folder may come from somebody else. Its recipe can name `module:factory`, and to build such a network is to run that
module, so it is done only when it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from lessen import pipeline
from lessen.core.bounds import ROOM, bounded
from lessen.core.calling import public
from lessen.core.errors import RecipeError, RunError, WeightsError, did_you_mean
from lessen.pipeline import Compressed, Packed, RunFolder
from lessen.recipe.recipe import Recipe, read_recipe
from lessen.zoo import SOURCES, Build, builds_in


def read_run(run: str | Path, *, allow_import: bool = False) -> Recipe:
    """The recipe that a run was started from.

    Args:
        run: The folder of the run.
        allow_import: Whether the modules of methods from outside lessen may be imported, which executes them.

    Raises:
        RunError: the folder is not a run, or the run was started from Python, with objects that no recipe names.
    """
    folder = RunFolder(run)
    folder.open()
    if "build" not in (folder.read_recipe().get("network") or {}):
        raise RunError(
            f"{folder.path} was started from Python, so its recipe does not tell how to build the network. Call "
            f"lessen.load({str(run)!r}, network), or lessen.resume({str(run)!r}, teacher=…, data=…, steps=…)."
        )
    return read_recipe(folder.recipe, allow_import=allow_import)


@public
def load(run: str | Path, network: nn.Module | None = None, *, allow_import: bool = False) -> nn.Module:
    """The compressed network of a run, in eval mode, rebuilt from its plan and its weights.

    Args:
        run: The folder of the run, or a file that `lessen pack` made of it.
        network: Freshly built, as the one that was compressed had been; its weights do not matter. It is not changed.
            None builds it as the recipe of the run says.
        allow_import: Whether modules named in the folder may be imported, which executes them: the `module:factory` of
            the network, and those of methods from outside lessen.

    Raises:
        RunError: the folder is not a run, the run has not come to its end, or it was started from Python.
        RecipeError: the recipe names a module of somebody's own, and that was not allowed.
        PlanError, WeightsError: the plan or the weights do not belong to this network, or the file is damaged.
    """
    if Path(run).is_file():
        if network is None:
            said, most = pipeline.build_of(run)
            build = Build(**said)
            _allowed(run, build, allow_import)
            with bounded(most, WeightsError, f"The network {build.build!r} in {run}"):
                network = build.make(seed=0, weights=False)
        return pipeline.unpack(run, network, allow_import=allow_import)
    network = _fresh(run, allow_import) if network is None else network
    return pipeline.load(run, network, allow_import=allow_import)


@public
def pack(
    run: str | Path,
    network: nn.Module | None = None,
    *,
    out: str | Path | None = None,
    allow_import: bool = False,
) -> Packed:
    """Write the compressed network of a run to one file, in as few bytes as give back every bit of what it computes.

    Args:
        run: The folder of the run.
        network: As for `load`.
        out: The file, ending in `.safetensors`; None for `packed.safetensors` in the folder.
        allow_import: As for `load`.

    Raises:
        RunError: the folder is not a run, the run has not come to its end, or the file is there already.
        RecipeError: the recipe names a module of somebody's own, and that was not allowed.
    """
    network = _fresh(run, allow_import) if network is None else network
    return pipeline.pack_run(run, network, out, allow_import=allow_import)


@public
def resume(
    run: str | Path,
    *,
    allow_import: bool = False,
    progress: bool = True,
    device: str | None = None,
    keep_state: bool = False,
    track: Any = None,
    **arguments: Any,
) -> Compressed:
    """Continue a run that was interrupted, and end with the same numbers as one that was not.

    A run that is complete is read, and nothing in its folder is changed.

    Args:
        run: The folder of the run.
        allow_import: Whether modules named in the folder may be imported, which executes them: the `module:factory` of
            the network, and those of methods from outside lessen.
        progress: Whether to show progress bars.
        device: Where to train; it may be another one than before. None: as the recipe says, or what accelerate finds.
        keep_state: Whether the finished run keeps checkpoints and caches of training.
        track: What gets parameters, logs and measurements as well; None: as the recipe says.
        arguments: For a run that was started from Python: those `lessen.compress` was called with, as
            `teacher=`, `data=` and `steps=`. Without them the recipe of the run says it all.

    Raises:
        RunError: the folder is not a run or is damaged, another process works on it, or something differs from what it
            was started with: the recipe, the network, the data, or the version of lessen, torch or Python.
        RecipeError: the recipe names a module of somebody's own, and that was not allowed.
    """
    if not arguments:
        folder = RunFolder(run)
        folder.check_recipe(folder.open())
        arguments = _trusted(run, read_run(run, allow_import=allow_import), allow_import).arguments(weights=False)
    device = device if device is not None else arguments.get("device")
    track = track if track is not None else arguments.get("track", ())
    more = {"progress": progress, "device": device, "keep_state": keep_state, "track": track}
    return pipeline.resume(run, **{**arguments, **more})


def check_imports(recipe: Recipe, source: str | Path, *, allow_import: bool) -> None:
    """Whether a recipe may be carried out: it names no `module:factory`, or this was allowed.

    Args:
        recipe: The recipe; nothing of it has been built yet.
        source: Where it comes from, for the error.
        allow_import: Whether a module may be run.

    Raises:
        RecipeError: it names one, and this was not allowed.
    """
    for build in builds_in(recipe):
        _allowed(source, build, allow_import)


def _fresh(run: str | Path, allow_import: bool) -> nn.Module:
    """The network of a run, freshly built, before it was compressed: no larger than its weights in the folder."""
    recipe, folder = _trusted(run, read_run(run, allow_import=allow_import), allow_import), RunFolder(run)
    kept = sum(file.stat().st_size for file in folder.step(0).glob("*.safetensors"))
    with bounded(2 * kept + ROOM, RunError, f"The network that {folder.recipe} names"):
        given, student = recipe.networks(weights=False)
    return given if student is None else student


def _trusted(run: str | Path, recipe: Recipe, allow_import: bool) -> Recipe:
    check_imports(recipe, run, allow_import=allow_import)
    return recipe


def _allowed(source: str | Path, build: Build, allow_import: bool) -> None:
    if build.imports and not allow_import:
        place = build.build.partition(":")[0]
        raise RecipeError(
            f"{source} names the network {build.build!r}; building it runs the module {place!r}. If you trust its "
            f"author, allow it with --allow-import (in Python: allow_import=True). If {place!r} is a slip: "
            f"{did_you_mean(place, SOURCES)}"
        )
