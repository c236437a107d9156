"""Networks, labels and targets that cannot be worked on, through the command line: one sentence, and exit code 2."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

NETWORKS = """
import torch
from torch import nn


def plain(outputs=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs))


def half():
    return plain().half()


def meta():
    with torch.device("meta"):
        return plain()


def traced():
    return torch.jit.trace(plain(), torch.zeros(1, 1, 8, 8))


def quantized():
    network = plain()
    network[4] = torch.ao.nn.quantized.dynamic.Linear(8, 4)
    return network


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(4))


def weights():
    return plain().state_dict()


def one_number():
    return nn.Sequential(plain(), nn.Flatten(0))


def nothing():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    return Silent()
"""
STEPS = [{"PruneChannels": {"keep": 0.5}}, {"Offline": {"epochs": 1}}]
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "half precision": ({"net": "half"}, "The network computes in float16, .* Call network.float\\(\\) first"),
    "no values": ({"net": "meta"}, "has no weights yet .*meta device.*load_state_dict"),
    "traced": ({"net": "traced"}, "traced by torch.jit .* Give the network that it was made from"),
    "quantized": ({"net": "quantized"}, "is quantized already by torch.ao \\(Linear at '4'\\)"),
    "lazy": ({"net": "lazy"}, "has not found its sizes yet .* Run it once on an example"),
    "weights alone": ({"net": "weights"}, "nets:weights returned an object of type OrderedDict, .*Module was expected"),
    "no examples in its output": ({"net": "one_number"}, "\\(8,\\)"),
    "no output": ({"net": "nothing"}, "returns a NoneType without a tensor in it; a tensor was expected"),
    "labels from 1": ({"data": "from_1"}, "from 1 to 4, but classes are numbered from 0. Renumber them"),
    "labels of another width": ({"data": "wide"}, "No task fits: labels .*\\(N, 7\\), outputs have shape \\(N, 4\\)"),
    "no labels to learn from": ({"data": "none"}, "In step 2 \\(Offline\\): .* needs labels, but the data has none"),
    "a task with a slip": ({"task": "multilable"}, "There is no task 'multilable': did you mean 'multi_label'"),
    "another task": ({"task": "multi_label"}, "multi_label, .* returns \\(2, 4\\) and the labels are \\(2,\\)"),
    "numbers": ({"task": "regression"}, "regression, so one output for each number"),
    "a task without labels": ({"data": "none", "task": "binary"}, "The task is 'binary', but the data has no labels"),
    "a target with a slip": ({"targets": {"accuracy": 90}}, "no setting 'accuracy': did you mean 'accuracy_drop'"),
    "a target without labels": (
        {"data": "none", "steps": STEPS[:1], "targets": {"accuracy_drop": 1.0}},
        "accuracy_drop cannot be judged, because .* no labels to judge by. Use quality_drop",
    ),
    "a target of another task": ({"data": "numbers", "targets": {"accuracy_drop": 1}}, "accuracy_drop cannot be jud"),
}  # fmt: skip


@pytest.fixture
def mine(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (here / "nets.py").write_text(NETWORKS)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    drawn, y = np.random.default_rng(0), np.arange(64) % 4
    x = drawn.normal(size=(64, 1, 8, 8)).astype(np.float32)
    labels = {
        "y": y,
        "from_1": y + 1,
        "wide": drawn.normal(size=(64, 7)),
        "numbers": drawn.normal(size=(64, 4)),
        "none": None,
    }
    for name, given in labels.items():
        np.savez(here / f"{name}.npz", x=x, **({} if given is None else {"y": given}))
    return here


def recipe(net: str = "plain", data: str = "y", **more: Any) -> dict[str, Any]:
    build = {"network": {"build": f"nets:{net}"}, "data": {"Arrays": {"file": f"{data}.npz"}}, "steps": STEPS}
    return build | more


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore")  # of torch, about torch.jit and torch.ao
def test_it_is_refused_before_anything_starts(case: str, mine: Path, lessen: Any) -> None:
    changes, says = CASES[case]
    (mine / "r.yaml").write_text(yaml.safe_dump(recipe(**changes)))
    said = lessen("run", "r.yaml", "--allow-import")
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("lessen: ")
    assert re.search(says, said.err, flags=re.S), said.err
    assert "Traceback" not in said.err
    assert not (mine / "runs").exists()
