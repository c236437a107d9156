"""What the commands print when all is well."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lessen as library
from lessen.core.hints import slots
from lessen.recipe import catalogue, methods
from lessen.zoo import mlp


def test_help_lists_every_command_and_needs_no_heavy_import(lessen: Any) -> None:
    said = lessen("--help")
    assert said.code == 0
    for command in ("demo", "run", "resume", "measure", "methods", "load", "report", "schema"):
        assert command in said.out
    assert library.__version__ in lessen("--version").out


def test_a_command_that_does_not_exist(lessen: Any) -> None:
    said = lessen("dmeo")
    assert said.code == 2
    assert "dmeo" in said.err


def test_methods_lists_every_card_once(lessen: Any) -> None:
    said = lessen("methods")
    assert said.code == 0
    lines = [line.split()[0] for line in said.out.splitlines() if line.startswith("  ") and line.strip()]
    for name in methods():
        assert lines.count(name) == 1, name
    assert f"{len(methods())} methods" in said.out


def test_methods_can_be_searched(lessen: Any) -> None:
    out = lessen("methods", "--find", "1503.02531").out
    assert "SoftTargets" in out
    assert "AttentionTransfer" not in out


@pytest.mark.parametrize("name", ["SoftTargets", "Shift", "PruneChannels"])
def test_one_method_shows_its_settings(name: str, lessen: Any) -> None:
    out = lessen("methods", name).out
    for field in slots(catalogue()[name]):
        assert field in out
    if name == "SoftTargets":
        assert "default ForwardKL()" in out
        assert "arXiv:1503.02531" in out


def test_schema_to_the_screen_and_to_a_file(lessen: Any, here: Path) -> None:
    printed = json.loads(lessen("schema").out)
    assert lessen("schema", "--out", "s.json").code == 0
    assert json.loads((here / "s.json").read_text()) == printed


def test_measure_a_network_with_weights_and_data(lessen: Any, here: Path) -> None:
    torch.manual_seed(0)
    save_file(mlp(hidden=(8,)).state_dict(), here / "w.safetensors")
    said = lessen(
        "measure", "zoo:mlp", "--set", "hidden=[8]", "--weights", "w.safetensors", "--data", "digits", "--threads", "1"
    )
    assert said.code == 0, said.err
    rows = {line.split()[0]: line for line in said.out.splitlines() if line.strip()}
    assert "610" in rows["parameters"]
    assert "ms" in rows["latency"]
    assert "%" in rows["accuracy"]


PARTS = """
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    def forward(self, x):
        return {"classes": self.body(x), "image": x}
"""


def test_measure_an_output_and_a_task_by_name(lessen: Any, here: Path) -> None:
    (here / "nets_with_parts.py").write_text(PARTS)
    network = "nets_with_parts:Two"
    said = lessen("measure", network, "--data", "digits", "--output", "classes", "--threads", "1")
    assert "accuracy" in said.out, said.err
    wrong = lessen("measure", network, "--data", "digits", "--output", "class", "--threads", "1")
    assert wrong.code == 2
    assert "classes" in wrong.err
    wrong = lessen("measure", network, "--data", "digits", "--output", "classes", "--task", "single_lable")
    assert wrong.code == 2
    assert "single_label" in wrong.err
    wrong = lessen("measure", network, "--output", "classes")
    assert wrong.code == 2
    assert "--data is needed" in wrong.err


def test_measure_a_network_alone_and_a_file_of_weights(lessen: Any, here: Path) -> None:
    save_file(mlp(hidden=(8,)).state_dict(), here / "w.safetensors")
    assert "610" in lessen("measure", "zoo:mlp", "--set", "hidden=[8]").out
    out = lessen("measure", "w.safetensors").out
    assert f"{(here / 'w.safetensors').stat().st_size:,}" in out


def test_a_network_of_the_readers_own_beside_the_recipe(lessen: Any, here: Path) -> None:
    (here / "mynets_of_here.py").write_text("from torch import nn\n\n\ndef small():\n    return nn.Linear(3, 2)\n")
    assert " 8" in lessen("measure", "mynets_of_here:small").out
