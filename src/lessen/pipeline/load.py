"""A network back from the folder of a run; nothing in the folder is executed."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lessen.core.errors import RunError
from lessen.core.files import read_tensors
from lessen.pipeline.folder import RunFolder
from lessen.pipeline.plans import read_plans, replay
from lessen.surgery.copying import copy_network
from lessen.zoo import load_tensors


def load(run: str | Path, network: nn.Module) -> nn.Module:
    """The compressed network of a run, in eval mode.

    Args:
        run: The folder of the run.
        network: Freshly built, as the one that was compressed had been; its weights do not matter. It is not changed.

    Raises:
        RunError: the folder is not a run, or the run has not come to its end.
        PlanError, WeightsError: the plan or the weights do not belong to this network.
    """
    folder = RunFolder(run)
    state = folder.open()
    if not folder.weights.is_file():
        raise RunError(
            f"{folder.path} has not come to its end ({state['completed']} steps are done). "
            f"Continue it with `lessen resume {folder.path}`."
        )
    fresh = copy_network(network)
    return replay(fresh, read_plans(folder.plan), read_tensors(folder.weights)).eval()


def load_given(folder: RunFolder, teacher: nn.Module, student: nn.Module | None) -> None:
    """Put the weights that a run was started with into freshly built networks, in place.

    Raises:
        RunError: the run was started with a student and none is given, or the other way round.
        WeightsError: the networks are of another architecture.
    """
    given = folder.step(0) / "given.safetensors"
    load_tensors(teacher, read_tensors(given), source=str(given))
    kept = folder.step(0) / "student.safetensors"
    if kept.is_file() != (student is not None):
        raise RunError(
            f"{folder.path} was started {'with' if kept.is_file() else 'without'} a student of its own; "
            "resume it the same way."
        )
    if student is not None:
        load_tensors(student, read_tensors(kept), source=str(kept))
