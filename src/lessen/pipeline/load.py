"""A network back from the folder of a run; nothing in the folder is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from lessen.core.errors import RunError
from lessen.core.files import read_tensors
from lessen.pipeline.folder import RESTORE, RunFolder, State
from lessen.pipeline.networks import freeze
from lessen.pipeline.plans import read_plans, replay
from lessen.surgery.copying import copy_network
from lessen.surgery.digest import digest
from lessen.zoo import load_tensors


def load(run: str | Path, network: nn.Module, *, allow_import: bool = False) -> nn.Module:
    """The compressed network of a run, in eval mode.

    Args:
        run: The folder of the run.
        network: Freshly built, as the one that was compressed had been; its weights do not matter. It is not changed.
        allow_import: Whether the modules of plans from outside lessen may be imported, which executes them.

    Raises:
        RunError: the folder is not a run, or the run has not come to its end.
        PlanError, WeightsError: the plan or the weights do not belong to this network.
    """
    folder = RunFolder(run)
    state = folder.open()
    if not folder.weights.is_file():
        raise RunError(
            f"{folder.path} is not complete ({max(state.completed, 0)} steps are done). Continue it with `lessen "
            f"resume {folder.path}`."
        )
    fresh = copy_network(network)
    return replay(fresh, read_plans(folder.plan, allow_import=allow_import), read_tensors(folder.weights)).eval()


def load_given(folder: RunFolder, state: State, networks: Mapping[str, nn.Module]) -> None:
    """Put the weights that a run was started with into its networks, in place, and freeze what was frozen in them.

    Raises:
        RunError: a file is damaged, or is not the one that the run began with.
        WeightsError: a file is missing, or the networks are of another architecture.
    """
    for name, network in networks.items():
        path = folder.given(name)
        load_tensors(network, read_tensors(path), source=str(path))
        if digest(network) != state.given.get(name):
            raise RunError(
                f"{path} is damaged: it does not contain the weights that the run was started with. {RESTORE}"
            )
        freeze(network, state.frozen.get(name, ()))
