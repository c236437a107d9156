"""A run as one compressed file: the same outputs bit for bit, however the network was made smaller."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lessen
from lessen.cli import main
from lessen.core import Operation
from lessen.core.errors import LessenError, PlanError, RecipeError, RunError, WeightsError
from lessen.core.files import write_json, write_tensors
from lessen.operations import Half, LowRank, PruneChannels, PruneWeights, Quantize, QuantizeDynamic, QuantizeWeights
from lessen.operations.quantize import LearnedStep
from lessen.pipeline import RunFolder, pack, unpack
from lessen.pipeline.folder import Kept, State, as_recipe
from lessen.pipeline.plans import encode_plans
from lessen.recipe import as_data, read_recipe
from lessen.surgery.forms.places import places
from lessen.surgery.forms.registering import kept_weights
from lessen.surgery.packing import read_container
from lessen.testing import EXAMPLES, Example
from lessen.testing.networks import Perceptron
from lessen.zoo import build

OPERATIONS: dict[str, Operation] = {
    "channels": PruneChannels(keep=0.5),
    "weights": PruneWeights(keep=0.2),
    "rank": LowRank(rank=3),
    "4 bits": Quantize(weight_bits=4),
    "7 bits": Quantize(weight_bits=7),
    "learned steps": Quantize(weight_bits=4, learned=LearnedStep()),
    "dynamic": QuantizeDynamic(),
    "codes": QuantizeWeights(bits=3, group=16),
    "half": Half(),
}
NETWORKS = {name: EXAMPLES[name] for name in ("convolutions", "attention")}
FIRST = ("channels", "weights", "rank", "4 bits", "7 bits")
ORDERS = [
    *((name,) for name in OPERATIONS),
    *(pair for pair in itertools.permutations(FIRST, 2) if not {"4 bits", "7 bits"} <= set(pair)),
    ("weights", "learned steps"),
    ("weights", "codes", "half"),
]


def outputs(model: nn.Module, example: Example) -> torch.Tensor:
    with torch.no_grad():
        made: torch.Tensor = model.eval()(example.inputs())
    return made


def masks(model: nn.Module) -> dict[str, torch.Tensor]:
    """The mask of each masked parameter, under every name."""
    named = places(model, by_every_name=True)
    found = {f"{path}.{last}": kept_weights(module, last) for path, module, last in named}
    return {name: kept for name, kept in found.items() if kept is not None}


def operated(example: Example, names: tuple[str, ...]) -> tuple[nn.Module, list[Any]]:
    """The network after these operations and a step of training."""
    model, plans = example.build(), []
    for name in names:
        plans.append(OPERATIONS[name].plan(model, example.context()))
        model = plans[-1].apply(model)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        model(example.inputs()).square().mean().backward()
        optimizer.step()
    return model.eval(), plans


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("names", ORDERS, ids="+".join)
def test_the_network_comes_back_bit_for_bit(names: tuple[str, ...], network: str, tmp_path: Path) -> None:
    example = NETWORKS[network]
    model, plans = operated(example, names)
    pack(model, tmp_path / "x.safetensors", plans=plans)
    again = unpack(tmp_path / "x.safetensors", example.build(seed=1))
    assert torch.equal(outputs(again, example), outputs(model, example))
    before, after = masks(model), masks(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_another_network_would_be_seen() -> None:
    """The planted error: one weight is another by its last bit."""
    example = NETWORKS["convolutions"]
    model = operated(example, ("weights",))[0]
    before = outputs(model, example)
    with torch.no_grad():
        model.head.weight.view(torch.int32).reshape(-1)[:40] ^= 1  # type: ignore[operator,union-attr]
        model.head.bias.view(torch.int32)[0] ^= 64  # type: ignore[operator,union-attr]
    assert not torch.equal(outputs(model, example), before)


def test_each_operation_makes_the_file_smaller(tmp_path: Path) -> None:
    """A network wide enough for its weights to outweigh the names in the file."""
    example = Example(lambda: Perceptron(width=256), (12,))
    sizes = {}
    for names in ((), ("weights",), ("4 bits",), ("weights", "4 bits")):
        model, plans = operated(example, names)
        sizes[names] = pack(model, tmp_path / "x.safetensors", plans=plans).bytes
    plain = sum(value.numel() * 4 for value in example.build().state_dict().values())
    assert sizes[()] < 1.01 * plain
    assert sizes[("4 bits",)] < plain / 6.5
    assert sizes[("weights",)] < plain / 4  # a fifth of the weights, and where they stand
    assert sizes[("weights", "4 bits")] < plain / 10


def test_masks_are_written_once(tmp_path: Path) -> None:
    example = NETWORKS["attention"]
    model, plans = operated(example, ("weights",))
    pack(model, tmp_path / "x.safetensors", plans=plans)
    text = json.dumps(read_container(tmp_path / "x.safetensors").more)
    assert not any(mask in text for mask in plans[0].masks.values())
    assert any(mask in json.dumps(encode_plans(plans)) for mask in plans[0].masks.values())


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    model, plans = operated(NETWORKS["convolutions"], ("channels",))
    pack(model, path, plans=plans)
    with pytest.raises(PlanError):
        unpack(path, EXAMPLES["perceptron"].build())
    model, plans = operated(NETWORKS["convolutions"], ())
    pack(model, path, plans=plans)
    with pytest.raises(WeightsError, match="do not belong to this Perceptron"):
        unpack(path, EXAMPLES["perceptron"].build())


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    model, plans = operated(NETWORKS["convolutions"], ())
    pack(model, path, plans=plans)
    before = path.read_bytes()

    def broken(*_: object) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr("os.fsync", broken)
    with pytest.raises(RunError, match="no space"):
        pack(operated(NETWORKS["convolutions"], ("rank",))[0], path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]


def finished(folder: Path, network: str) -> Path:
    """A run that has come to its end: half of the weights of a network are pruned."""
    (folder / "given.yaml").write_text(f'network: {{build: "{network}"}}\ndata: Digits\nsteps: []\n')
    run = RunFolder(folder / "run")
    asked = as_recipe(as_data(read_recipe(folder / "given.yaml")))
    run.begin(State.new(job={}, asked=asked, given={}, frozen={}), {})
    model = build("zoo:mlp", seed=3)
    run.write_network(0, model.state_dict(), Kept(plans=[], layers=[], records=[], frozen=[]))
    plan = PruneWeights(keep=0.1).plan(model, EXAMPLES["perceptron"].context())
    write_tensors(run.weights, plan.apply(model).state_dict())
    write_json(run.plan, encode_plans([plan]))
    return run.path


def test_a_run_is_packed_and_loaded_by_the_file_alone(tmp_path: Path) -> None:
    run = finished(tmp_path, "zoo:mlp")
    made = lessen.pack(run)
    assert made.path == run / "packed.safetensors"
    assert made.bytes == made.path.stat().st_size < (run / "weights.safetensors").stat().st_size / 3
    one, other = lessen.load(made.path), lessen.load(run)
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())
    assert all(torch.equal(mask, masks(other)[name]) for name, mask in masks(one).items())
    with pytest.raises(RunError, match="already exists"):
        lessen.pack(run, out=made.path)
    assert lessen.pack(run).bytes == made.bytes  # its own file may be written again


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, out = finished(tmp_path, "zoo:mlp"), tmp_path / "own.safetensors"
    for code, said in ((0, f"Packed: {out}"), (2, "already exists")):
        with pytest.raises(SystemExit) as left:
            main(["pack", str(run), "--out", str(out)])
        assert left.value.code == code
        printed = capsys.readouterr()
        assert said in printed.out + printed.err
    with pytest.raises(SystemExit) as left:
        main(["load", str(out)])
    assert left.value.code == 0
    assert "parameters" in capsys.readouterr().out


def test_a_file_that_names_a_module_is_not_trusted(tmp_path: Path) -> None:
    run = finished(tmp_path, "lessen.zoo:mlp")
    with pytest.raises(RecipeError, match="--allow-import"):
        lessen.pack(run)
    made = lessen.pack(run, allow_import=True)
    with pytest.raises(RecipeError, match="--allow-import"):
        lessen.load(made.path)
    assert lessen.load(made.path, allow_import=True)


def test_a_file_from_python_needs_the_network(tmp_path: Path) -> None:
    pack(build("zoo:mlp"), tmp_path / "x.safetensors")
    with pytest.raises(LessenError, match=r"lessen.load\(.*, network\)"):
        lessen.load(tmp_path / "x.safetensors")
    assert lessen.load(tmp_path / "x.safetensors", build("zoo:mlp", seed=1))
