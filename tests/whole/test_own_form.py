"""A form from outside lessen, all the way: it learns, is copied, packed, exported, stopped and resumed."""

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from tests.surgery.forms.signs import Signed, Signs, ToSigns, signed
from torch import nn

import lessen
from lessen.core import Context
from lessen.deploy import Deploy, OnnxRuntime, TorchProgram, export_onnx, export_pt2
from lessen.deploy.constants import DOMAIN
from lessen.deploy.forms import codes as written_codes
from lessen.graph import Fit
from lessen.knowledge import SoftTargets
from lessen.operations import Half, PruneWeights, QuantizeWeights
from lessen.pipeline import Measuring, pack, unpack, walk
from lessen.schemes import offline
from lessen.surgery.forms.registering import form_of, forms_of, stored
from lessen.surgery.packing import read_container
from lessen.testing.catalogue import LITTLE, exported, outputs
from lessen.testing.tasks import clusters, perceptron


def exact(width: int = 64) -> nn.Module:
    """A network of signs whose sums are exact in any order, for inputs that are small whole numbers."""
    network = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 8))
    network = Signed(names=("0", "2")).apply(network)
    with torch.no_grad():
        for layer in (network[0], network[2]):  # type: ignore[index]
            scales = stored(layer, "weight")
            scales.copy_((scales * 64).round().clamp_min(1) / 64)
            layer.bias.copy_((layer.bias * 64).round() / 64)
    return network.eval()


def test_scales_learn_and_signs_stay() -> None:
    network = exact()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert set(before) == {f"{at}.{part}" for at in (0, 2) for part in ("weight.scales", "weight.signs", "bias")}
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    network(torch.randn(8, 16)).square().mean().backward()
    wanted = [parameter.grad.clone() for parameter in network.parameters()]
    optimizer.step()
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) == name.endswith("signs") for name in before)
    scales, signs = before["2.weight.scales"].double().requires_grad_(), before["2.weight.signs"].double()
    assert torch.autograd.gradcheck(lambda s: signed(s, signs.byte()), scales)
    assert all(bool(grad.isfinite().all()) for grad in wanted)


def test_signs_are_bit_equal_and_small_in_onnx_and_in_a_program(tmp_path: Path) -> None:
    network, plain_network = exact(), nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 8))
    x = torch.randint(-3, 4, (5, 16), generator=torch.Generator().manual_seed(0)).float()
    with torch.no_grad():
        wanted = network(x)
    file = export_onnx(network, x, tmp_path / "model.onnx")
    assert torch.equal(OnnxRuntime().load(file, threads=1)(x), wanted)
    numbers = 16 * 64 + 64 * 8
    stored_bytes = sum(len(each.raw_data) for each in onnx.load(file).graph.initializer)
    assert stored_bytes < numbers / 8 + 4 * 2 * (64 + 8) + 150  # signs, scales and biases, shapes
    assert not any(node.domain == DOMAIN for node in onnx.load(file).graph.node)
    program = export_pt2(network, x, tmp_path / "model.pt2")
    assert not [node for node in torch.export.load(program).graph.nodes if "own_forms" in str(node.target)]
    assert torch.equal(TorchProgram().load(program, threads=1)(x), wanted)
    assert file.stat().st_size < export_onnx(plain_network, x, tmp_path / "plain.onnx").stat().st_size


def test_a_twin_that_stores_another_sign_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = exact(), torch.ones(2, 16)
    right = written_codes.packed
    monkeypatch.setattr(written_codes, "packed", lambda values, bits: right(1 - values, bits))
    with torch.no_grad():
        wanted = network(x)
    file = export_onnx(network, x, tmp_path / "model.onnx")
    assert not torch.equal(OnnxRuntime().load(file, threads=1)(x), wanted)


def test_signs_are_packed_at_one_bit_and_come_back(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 16)).eval()
    plan = ToSigns().plan(network, Context(inputs=torch.randn(2, 64)))
    small = plan.apply(network)
    x = torch.randn(3, 64)
    wide, narrow = (pack(each, tmp_path / f"{n}.safetensors").bytes for n, each in enumerate((network, small)))
    assert narrow < wide / 10
    taken = pack(small, tmp_path / "small.safetensors", plans=[plan]).tensors
    assert taken["0.weight.signs"] <= 64 * 256 / 8 + 4
    assert "Signed" in str(read_container(tmp_path / "small.safetensors").more["plans"])
    fresh = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 16))
    with torch.no_grad():
        assert torch.equal(unpack(tmp_path / "small.safetensors", fresh)(x), small.eval()(x))


def job(**changes: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "teacher": perceptron(32, seed=0),
        "data": clusters(),
        "steps": [
            ToSigns(),
            offline(SoftTargets(temperature=4.0), epochs=2, fit=Fit(batch=16, keep_best=False)),
            Half(where="norm"),
        ],
        "deploy": Deploy(runtimes=(OnnxRuntime(),)),
        "measuring": Measuring(repeats=6, calibration=32),
        "progress": False,
    }
    return given | changes


class Killed(Exception):
    """What stops a run, as a kill would."""


def killed(*given: Any, **more: Any) -> None:
    raise Killed


@pytest.mark.parametrize("where", ["train_stages", "deploy_steps"])
def test_a_run_with_signs_is_stopped_and_resumed_to_the_same_bits(
    where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = lessen.compress(run=tmp_path / "whole", **job())
    assert whole.file is not None
    assert {type(form) for form in forms_of(whole.model.get_submodule("layer1"), "weight")} == {Signs}
    with monkeypatch.context() as only:
        only.setattr(walk, where, killed)
        with pytest.raises(Killed):
            lessen.compress(run=tmp_path / "run", **job())
    again = lessen.resume(tmp_path / "run", **job(teacher=perceptron(32, seed=5)))
    one, other = whole.model.state_dict(), again.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    back = lessen.load(tmp_path / "run", perceptron(32, seed=5))
    assert all(torch.equal(value, one[name]) for name, value in back.state_dict().items())
    scales = Signed(names=("layer1",)).apply(perceptron(32, seed=0)).state_dict()["layer1.weight.scales"]
    assert not torch.equal(one["layer1.weight.scales"], scales)
    lessen.pack(tmp_path / "run", perceptron(32, seed=5))


def test_operations_leave_signs_alone_in_words() -> None:
    network = Signed(names=("layer1", "layer2", "head")).apply(perceptron(8, seed=0))
    context = Context(inputs=torch.randn(4, 8))
    assert set(PruneWeights(keep=0.5).plan(network, context).left.values()) == {
        "its weights are stored as signs; prune first"
    }
    assert set(QuantizeWeights(group=4).plan(network, context).left.values()) == {"it is already stored as signs"}
    assert {why for name, why in Half().plan(network, context).left.items() if name.endswith(".weight")} == {
        "it is stored as signs"
    }
    assert form_of(network.layer1, "weight", Signs) is not None


@pytest.mark.parametrize("name", exported())
def test_every_operation_meets_a_form_that_it_does_not_know(name: str) -> None:
    network = ToSigns().plan(LITTLE.build(), LITTLE.context()).apply(LITTLE.build())
    gave, state = outputs(network, LITTLE), {key: value.clone() for key, value in network.state_dict().items()}
    small = exported()[name].plan(network, LITTLE.context()).apply(network)
    assert bool(outputs(small, LITTLE).isfinite().all())
    there = {path for path, _ in small.named_modules()}
    left = {path for path, each in small.named_modules() if form_of(each, "weight", Signs) is not None}
    assert left >= {"head", "tied", "same"}
    assert "blocks.0.inner" in left or "blocks.0.inner" not in there
    assert torch.equal(outputs(network, LITTLE), gave)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
