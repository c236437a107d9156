"""`lessen explain`: groups and their costs by hand, reasons, JSON, and bad input."""

import json
from pathlib import Path
from typing import Any

import pytest

HERE = """
import torch
from torch import nn

class Normal(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm, self.two, self.head = nn.Linear(3, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.Linear(6, 2)
    def forward(self, x):
        return self.head(self.two(self.norm(self.one(x))).sort(-1)[0])

class Branch(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x
"""


@pytest.fixture
def mine(here: Path) -> Path:
    (here / "nets_to_explain.py").write_text(HERE)
    return here


def test_groups_costs_and_reasons_by_hand(lessen: Any, mine: Path) -> None:
    said = lessen("explain", "nets_to_explain:Normal", "--shape", "3", "--json")
    found = json.loads(said.out)
    assert (found["parameters"], found["multiply_adds"]) == (32 + 16 + 54 + 14, 24 + 48 + 12)
    (group,) = found["groups"]
    assert (group["name"], group["size"]) == ("one", 8)
    assert group["parameters_of_one"] == 3 + 1 + 2 + 6  # a row, its bias, a scale and a shift, a column
    assert group["multiply_adds_of_one"] == 3 + 6
    read = [(member["tensor"], member["axis"]) for member in group["members"] if member["read"]]
    assert read == [("two.weight", 1)]
    why = {(row["tensor"], row["axis"]): row["reason"] for row in found["pinned"]}
    assert why["one.weight", 1] == "an input of the network"
    assert why["head.weight", 0] == "an output of the network"
    assert "sort" in why["two.weight", 0]
    assert set(why) == {
        (f"{name}.weight", axis) for name, axis in (("one", 1), ("two", 0), ("head", 0), ("head", 1))
    } | {
        ("two.bias", 0),
        ("head.bias", 0),
    }


def test_it_says_so_to_people(lessen: Any, mine: Path) -> None:
    out = lessen("explain", "nets_to_explain:Normal", "--shape", "3").out
    assert "116 parameters, 84 multiply-adds" in out
    assert "one, norm; read by two" in " ".join(out.split())
    assert "an output of the network: head.weight[0], head.bias[0]" in out


def test_the_data_says_what_a_network_takes(lessen: Any, here: Path) -> None:
    said = lessen("explain", "zoo:residual", "--set", "width=4", "--set", "depth=8", "--data", "digits", "--json")
    assert said.code == 0
    assert all(group["parameters_of_one"] > 0 for group in json.loads(said.out)["groups"])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("zoo:residul", "--shape", "1,8,8"), "did you mean 'residual'"),
        (("zoo:mlp",), "Give --shape"),
        (("zoo:mlp", "--shape", "8;8"), "expected integers, as 3,224,224"),
        (("zoo:mlp", "--shape", "64", "--data", "digits"), "give only one of them"),
        (("zoo:mlp", "--shape", "64", "--set", "hidden"), "name=value"),
        (("nets_to_explain:Branch", "--shape", "3"), "Branch cannot be read by torch.export"),
        (("nets_to_explain:Normal", "--shape", "5"), "cannot be read by torch.export on these inputs"),
    ],
)
def test_bad_input_is_one_screen(words: tuple[str, ...], part: str, lessen: Any, mine: Path) -> None:
    said = lessen("explain", *words)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("lessen: ")
    assert part in " ".join(said.err.split())
    assert sum(len(line) // 80 + 1 for line in said.err.splitlines()) <= 24


SIZES = """
from torch import nn

class Free(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

class Fixed(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2))

class TwoAtATime(Free):
    def forward(self, x):
        return super().forward(x).reshape(2, 2)
"""


@pytest.mark.parametrize(
    ("name", "axes", "says"),
    [
        ("Free", ["batch", 3, "height", "width"], "Named sizes may vary"),
        ("Fixed", ["batch", 3, 8, 8], "The network takes no other size"),
    ],
)
def test_it_says_which_sizes_a_file_takes(lessen: Any, here: Path, name: str, axes: list[Any], says: str) -> None:
    (here / "nets_of_sizes.py").write_text(SIZES)
    found = json.loads(lessen("explain", f"nets_of_sizes:{name}", "--shape", "3,8,8", "--json").out)
    assert list(found["sizes"]["inputs"].values()) == [axes]
    assert says in " ".join(lessen("explain", f"nets_of_sizes:{name}", "--shape", "3,8,8").out.split())


def test_a_network_that_no_file_can_hold_is_explained_all_the_same(lessen: Any, here: Path) -> None:
    (here / "nets_of_sizes_too.py").write_text(SIZES)
    said = lessen("explain", "nets_of_sizes_too:TwoAtATime", "--shape", "3,8,8")
    assert said.code == 0, said.err
    assert "No file: TwoAtATime cannot be traced for a variable batch size" in " ".join(said.out.split())
    found = json.loads(lessen("explain", "nets_of_sizes_too:TwoAtATime", "--shape", "3,8,8", "--json").out)
    assert [group["size"] for group in found["groups"]] == [4]
    assert found["sizes"]["inputs"] == {}
