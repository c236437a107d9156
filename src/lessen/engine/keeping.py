"""What a stage in motion puts into a checkpoint, and takes back out of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.errors import RunError
from lessen.engine.checkpoint import Checkpoints, Saved, under
from lessen.engine.log import Position
from lessen.engine.states import put_back, state_of_optimizer
from lessen.engine.trail import Trail
from lessen.engine.training import Training
from lessen.surgery.forms.mask import Mask, mask_of, mask_parameter, masked_parameters
from lessen.surgery.modules import get_module


def save(training: Training, learned: list[nn.Module], checkpoints: Checkpoints) -> Saved:
    """Everything that decides how a stage goes on.

    Args:
        training: The stage.
        learned: The networks that learned in this stage or an earlier one.
        checkpoints: Where best states are written that are not on disk yet.
    """
    now = _state(training, learned)
    for name, state in training.best_states.items():
        if name not in training.best_files:
            training.best_files[name] = checkpoints.write_best(training.number, training.step, name, state)
    good = training.good
    if good is not None and good.about["step"] != training.step and training.good_file is None:
        training.good_file = checkpoints.write_good(training.number, good.about["step"], good)
    about = {
        **now.about,
        "best": training.best,
        "best_files": dict(training.best_files),
        "good_file": training.good_file,
        "start": training.start,
        "restarts": training.restarts,
        "gives": training.gives(),
        "networks": numbers_of(training, learned),
    }
    if training.averages is not None and training.stage.fit.keep_checkpoints > 1:
        with training.averages.in_place():
            shipped = networks_of(learned).items()
            now.tensors.update({f"shipped/{name}": value.detach().clone() for name, value in shipped})
    return Saved(now.tensors, about)


def numbers_of(training: Training, learned: list[nn.Module]) -> dict[str, int]:
    """The numbers of the networks that learn in a stage, by the names of their nodes."""
    places = {id(module): number for number, module in enumerate(learned)}
    nodes = [node for node in training.stage.graph.nodes if node.network is not None and node.can_learn()]
    return {node.name: places[id(node.network)] for node in nodes}


def standing(training: Training, learned: list[nn.Module]) -> Saved:
    """A copy, in the memory of the CPU, of what a stage would be restarted from."""
    now = _state(training, _learning(training, learned))
    tensors = {name: value.detach().to("cpu", copy=True) for name, value in now.tensors.items()}
    return Saved(tensors, {**copy.deepcopy(now.about), "step": training.step})


def go_back(training: Training, learned: list[nn.Module], good: Saved) -> None:
    """Put a stage back to where `standing` copied it."""
    training.stop_fetching()
    training.log.drop()
    for number, module in enumerate(_learning(training, learned)):
        _load(module, under(f"network/{number}", good.tensors))
    _put_back(training, good)


def place_of(saved: Saved) -> Position:
    """Where a checkpoint was written."""
    about = saved.about
    return Position(about["stage"], about["step"], begun="start" in about, restarts=about.get("restarts", 0))


def _learning(training: Training, learned: list[nn.Module]) -> list[nn.Module]:
    """Those that learn in this stage."""
    mine = {id(module) for module in training.flow.learning}
    return [module for module in learned if id(module) in mine]


def _state(training: Training, learned: list[nn.Module]) -> Saved:
    """All that moves in a stage, and the networks given."""
    tensors = networks_of(learned)
    numbers: dict[str, Any] = {}
    for place, module in _modules(training).items():
        tensors.update({f"{place}/{key}": value for key, value in module.state_dict().items()})
        tensors.update({f"mask/{place}/{key}": mask.kept for key, mask in _masks(module)})
    for name, optimizer in training.optimizers.items():
        state, numbers[name] = state_of_optimizer(optimizer)
        tensors.update({f"optimizer/{name}/{key}": value for key, value in state.items()})
    if training.averages is not None:
        tensors.update(training.averages.state())
    scaler = training.home.scaler
    about = {
        "optimizers": numbers,
        "waited": training.waited,
        "latest": training.latest,
        "trail": training.log.trail.state(),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    return Saved(tensors, about)


def networks_of(learned: list[nn.Module]) -> dict[str, Tensor]:
    """The states of networks, by number, and the masks on their weights, which are in no state."""
    found = {
        f"network/{i}/{key}": value for i, module in enumerate(learned) for key, value in module.state_dict().items()
    }
    for i, module in enumerate(learned):  # a mask that still moves is kept by what moves it
        found |= {f"mask/network/{i}/{key}": mask.kept for key, mask in _masks(module) if not mask.open}
    return found


def load_networks(learned: list[nn.Module], saved: Saved) -> None:
    """Put the states of networks back.

    Raises:
        RunError: they are of other networks.
    """
    for number, module in enumerate(learned):
        _load(module, under(f"network/{number}", saved.tensors))
        for key, kept in under(f"mask/network/{number}", saved.tensors).items():
            path, _, name = key.rpartition("/")
            mask_parameter(get_module(module, path), name, kept)


def load(training: Training, learned: list[nn.Module], saved: Saved, checkpoints: Checkpoints) -> None:
    """Put a stage back to where it was; its networks are put back by `load_networks`, before the stage is made."""
    _put_back(training, saved)
    training.begun, training.start, training.restarts = True, saved.about["start"], saved.about["restarts"]
    training.best, training.best_files = saved.about["best"], saved.about["best_files"]
    for name, file in training.best_files.items():
        device = training.home.device
        training.best_states[name] = {key: value.to(device) for key, value in checkpoints.read_best(file).items()}
    if not training.stage.fit.restarts:
        return
    training.good_file = saved.about["good_file"]
    training.good = standing(training, learned) if (file := training.good_file) is None else checkpoints.read_good(file)


def _put_back(training: Training, saved: Saved) -> None:
    """Put back all that moves in a stage but its networks."""
    for place, module in _modules(training).items():
        _load(module, under(place, saved.tensors))
        kept = under(f"mask/{place}", saved.tensors)
        for key, mask in _masks(module):
            mask.kept.copy_(kept[key])
    if training.averages is not None:
        training.averages.put_back(saved.tensors)
    for name, optimizer in training.optimizers.items():
        put_back(optimizer, under(f"optimizer/{name}", saved.tensors), saved.about["optimizers"][name])
    training.step, training.waited = saved.about["step"], saved.about["waited"]
    training.latest, training.log.trail = saved.about["latest"], Trail(saved.about["trail"])
    if (scaler := training.home.scaler) is not None and saved.about["scaler"] is not None:
        scaler.load_state_dict(saved.about["scaler"])


def _masks(module: nn.Module) -> Iterator[tuple[str, Mask]]:
    for path, owner, name in masked_parameters(module):
        mask = mask_of(owner, name)
        if mask is not None:
            yield f"{path}/{name}", mask


def _modules(training: Training) -> dict[str, nn.Module]:
    """What has a state of its own in this stage only: bridges, heads, objectives, gates, snapshots."""
    found: dict[str, nn.Module] = {}
    for owner in training.flow.owners.values():
        for name, part in owner.parts.items():
            if not name.startswith("network:"):
                found[f"part/{owner.name}/{name}"] = part
    for name, unit in training.flow.units.items():
        if unit.follows and unit.module is not None:
            found[f"snapshot/{name}"] = unit.module
    return found


def _load(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    try:
        with torch.no_grad():
            module.load_state_dict(tensors)
    except RuntimeError as error:
        raise RunError(f"The checkpoint is of another network: {str(error).splitlines()[-1].strip()}") from error
