"""One network pruned by Torch-Pruning 1.6.1, without settings for the network, under the same checks.

The masked network it must equal has the weights that read a removed channel at zero, and normalisations that average
over the channels that stay. Which entries stay is found by pruning a second copy whose parameters hold the numbers of
their own entries, from the history of the first.
"""

from __future__ import annotations

import copy
import importlib.metadata
import json
import time
from pathlib import Path
from typing import Any

import torch
from networks import Named, build, images, lived_in
from ours import EQUAL, KEEP, onnx, relative, state_for, told
from torch import Tensor, nn

from lessen.core.files import read_tensors, write_json, write_tensors
from lessen.operations.prune_channels.masked import _Masked
from lessen.surgery.modules import copy_with

READS = (nn.Conv1d, nn.Conv2d, nn.Linear)
AVERAGES = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def version() -> str:
    """Which release it is."""
    return f"torch-pruning {importlib.metadata.version('torch-pruning')}"


def prune(named: Named, folder: Path, result: dict[str, Any]) -> None:
    """Prune as its documentation says: all layers but the classifier, by the size of the weights."""
    start = time.process_time()
    before, x = lived_in(build(named), images(named, 8)), images(named, 2, seed=1)
    network, history = _pruned(copy.deepcopy(before), x)
    result["seconds_plan"] = round(time.process_time() - start, 1)
    counts = [sum(p.numel() for p in side.parameters()) for side in (before, network)]
    result |= {"parameters": counts, "smaller": counts[1] < counts[0]}
    write_json(folder / "history.json", history)
    with torch.no_grad():
        wanted, whole = network(x), before(x)
    result["runs"] = wanted.shape == whole.shape
    write_tensors(folder / "weights.safetensors", network.state_dict())
    write_tensors(folder / "wanted.safetensors", {"outputs": wanted})
    try:
        reference = masked(before.double(), history, x)
        with torch.no_grad():
            off = relative(network.double()(x.double()), reference(x.double()))
        result |= {"difference": off, "equal": off <= EQUAL}
    except Exception as error:  # noqa: BLE001  (whatever goes wrong is the finding)
        result |= {"equal": False, "equal_error": told(error)}


def _pruned(network: nn.Module, x: Tensor) -> tuple[nn.Module, list[Any]]:
    import torch_pruning as tp

    classifiers = [part for part in network.modules() if _outputs(part) == 1000]
    importance = tp.importance.MagnitudeImportance(p=2)
    pruner = tp.pruner.BasePruner(network, x, importance, pruning_ratio=1 - KEEP, ignored_layers=classifiers)
    pruner.step()
    network.zero_grad()
    return network.eval(), pruner.pruning_history()


def _outputs(part: nn.Module) -> int:
    return part.out_features if isinstance(part, nn.Linear) else part.out_channels if isinstance(part, nn.Conv2d) else 0


def export(named: Named, folder: Path, result: dict[str, Any]) -> None:
    """What it pruned, in ONNX Runtime."""
    x = images(named, 2, seed=1)
    network, _ = _pruned(lived_in(build(named), images(named, 8)), x)
    with torch.no_grad():
        wanted = network(x)
    result |= onnx(network, x, wanted, folder)


def masked(network: nn.Module, history: list[Any], x: Tensor) -> nn.Module:
    """The whole network, in double precision, with what its history removes made to count for nothing."""
    import torch_pruning as tp

    numbered = copy.deepcopy(network)
    for parameter in numbered.parameters():
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float64).reshape(parameter.shape)
    tp.DependencyGraph().build_dependency(numbered, example_inputs=x.double()).load_pruning_history(history)
    numbers, zeroed, kept = dict(numbered.named_parameters()), {}, {}
    for path, module in network.named_modules():
        name = f"{path}.weight" if path else "weight"
        if isinstance(module, READS):
            stay = _stay(numbers[name], module.weight.shape, 1)
            zeroed[name] = module.weight.detach() * stay.reshape(1, -1, *[1] * (module.weight.ndim - 2))
        elif isinstance(module, AVERAGES) and module.weight is not None:
            stay = _stay(numbers[name], module.weight.shape, 0)
            if not stay.all():
                kept[name] = stay
    return _Masked(copy_with(network, zeroed), kept, {})


def _stay(numbers: Tensor, shape: torch.Size, dim: int) -> Tensor:
    """Which indices of an axis are left, given the numbers of the entries that are left."""
    places = torch.unravel_index(numbers.detach().long().flatten(), shape)[dim]
    return torch.zeros(shape[dim], dtype=torch.bool).index_fill(0, places, True)


def reload(named: Named, folder: Path, result: dict[str, Any]) -> None:
    """In a new process: its state alone, loaded strictly into a new network; then after its history is replayed."""
    import torch_pruning as tp

    wanted = read_tensors(folder / "wanted.safetensors")["outputs"]
    network, x = build(named, seed=9), images(named, 2, seed=1)
    state = state_for(network, folder)
    try:
        network.load_state_dict(state, strict=True)
        result["state_alone"] = True
    except RuntimeError:
        result["state_alone"] = False
    network = build(named, seed=9)
    history = json.loads((folder / "history.json").read_text())
    tp.DependencyGraph().build_dependency(network, example_inputs=x).load_pruning_history(history)
    network.load_state_dict(state, strict=True)
    with torch.no_grad():
        off = relative(network.eval()(x), wanted)
    result |= {"reload": off <= EQUAL, "reload_difference": off}
