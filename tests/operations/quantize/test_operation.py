"""Quantized networks: what they compute, what they keep of the network, how they come back from a plan."""

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessen.core import Batch, Context, decode, encode
from lessen.core.errors import PlanError, SettingError
from lessen.core.files import write_json, write_tensors
from lessen.operations.quantize import MinMax, Percentile, Quantize, Quantized, SquaredError, is_quantized
from lessen.operations.quantize.edges import find_edges
from lessen.surgery.calls import trace
from lessen.surgery.digest import digest
from lessen.surgery.fold import fold_batchnorm
from lessen.surgery.taps import Tap, capture
from lessen.zoo import residual, transformer


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """A network whose normalisations have seen data."""
    with torch.no_grad():
        for _ in range(5):
            model.train()(x)
    return model.eval()


@pytest.fixture(scope="module")
def x() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(64, 1, 8, 8)


@pytest.fixture(scope="module")
def context(x: Tensor) -> Context:
    return Context(inputs=x[:2], calibration=[Batch(x[:32], torch.arange(32)), Batch(x[32:], torch.arange(32, 64))])


@pytest.fixture(scope="module")
def model(x: Tensor) -> nn.Module:
    torch.manual_seed(1)
    return trained(residual(width=8, depth=8), x)


@pytest.fixture(scope="module")
def plan(model: nn.Module, context: Context) -> Quantized:
    return Quantize().plan(model, context)


@pytest.mark.parametrize("observer", [MinMax(), Percentile(percent=99.9), SquaredError()])
def test_eight_bits_are_close_and_two_are_not(model: nn.Module, context: Context, x: Tensor, observer: object) -> None:
    errors = {}
    with torch.no_grad():
        for bits in (8, 5, 2):
            new = Quantize(bits=bits, weight_bits=bits, observer=observer).plan(model, context).apply(model)
            errors[bits] = float((new(x) - model(x)).norm() / model(x).norm())
    assert errors[8] < 0.06 < errors[5] < errors[2]


def test_every_value_on_an_edge_is_on_its_grid(plan: Quantized, model: nn.Module, x: Tensor) -> None:
    new = plan.apply(model)
    scale, zero = plan.edges["layer2.0.activation1"]
    with capture(new, [Tap(path="layer2.0.activation1")]) as seen, torch.no_grad():
        new(x)
    codes = seen[Tap(path="layer2.0.activation1")] / torch.tensor(scale) + zero
    assert torch.allclose(codes, codes.round(), atol=1e-3)
    assert codes.unique().numel() > 100


def test_pairs_stand_between_operators_and_not_inside_them(model: nn.Module, x: Tensor) -> None:
    folded = fold_batchnorm(model, x[:2])
    sites = find_edges(trace(folded, x[:2]), lambda one: True)
    assert list(sites) == [
        "input:0",
        "activation",
        "layer1.0.activation1",  # not layer1.0.conv1, which absorbs it
        "layer1.0.conv2",
        "layer1.0.activation2",  # not the addition, which absorbs it
        "layer2.0.activation1",
        "layer2.0.conv2",
        "layer2.0.shortcut.0",
        "layer2.0.activation2",
        "layer3.0.activation1",
        "layer3.0.conv2",
        "layer3.0.shortcut.0",
        "layer3.0.activation2",
        "pool",
        "flatten",
    ]
    assert sites["flatten"] == "pool"  # moving numbers keeps their grid


def test_a_residual_stream_that_is_normalised_stays_in_floating_point() -> None:
    torch.manual_seed(0)
    model, x = transformer(dim=16, depth=1, heads=2, image=8, patch=4).eval(), torch.randn(8, 1, 8, 8)
    plan = Quantize().plan(model, Context(inputs=x, calibration=[Batch(x, torch.arange(8))]))
    assert not [site for site in plan.edges if ":add:" in site]
    assert len(plan.weights) >= 5
    new = plan.apply(model)
    with torch.no_grad():
        assert float((new(x) - model(x)).norm() / model(x).norm()) < 0.05


def test_the_network_that_came_in_is_not_changed(model: nn.Module, context: Context) -> None:
    before, kind = digest(model), type(model)
    Quantize().plan(model, context).apply(model)
    assert digest(model) == before
    assert type(model) is kind
    assert not is_quantized(model)


def test_neutral_changes_nothing(model: nn.Module, context: Context, x: Tensor) -> None:
    new = Quantize.neutral().plan(model, context).apply(model)
    assert torch.equal(new(x), model(x))
    assert list(new.state_dict()) == list(model.state_dict())


def test_names_class_and_copies_are_those_of_the_network(plan: Quantized, model: nn.Module, x: Tensor) -> None:
    new = plan.apply(model)
    assert isinstance(new, type(model))
    fresh = {name for name, _ in new.named_modules()} - {name for name, _ in model.named_modules()}
    assert all(name.startswith("grids") for name in fresh)
    twin = copy.deepcopy(new)
    assert torch.equal(twin(x), new(x))
    with torch.no_grad():
        twin.grids.get_submodule("layer1/0/conv2").scale.mul_(8)
    assert not torch.equal(twin(x), new(x))


REPLAY = """
import json, sys
import torch
from pathlib import Path
from lessen.core import decode
from lessen.core.files import read_tensors
from lessen.operations.quantize import Quantized
from lessen.zoo import residual
folder = Path(sys.argv[1])
plan = decode(json.loads((folder / "plan.json").read_text()), {"Quantized": Quantized})
model = plan.apply(residual(width=8, depth=8), values=False).eval()
model.load_state_dict(read_tensors(folder / "weights.safetensors"), strict=True)
with torch.no_grad():
    out = model(read_tensors(folder / "x.safetensors")["x"])
print(torch.equal(out, read_tensors(folder / "x.safetensors")["out"]))
"""


def test_plan_and_tensors_bring_it_back_in_a_new_process(
    plan: Quantized, model: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    new = plan.apply(model)
    write_json(tmp_path / "plan.json", encode(plan))
    write_tensors(tmp_path / "weights.safetensors", new.state_dict())
    write_tensors(tmp_path / "x.safetensors", {"x": x, "out": new(x).detach()})
    assert decode(json.loads((tmp_path / "plan.json").read_text()), {"Quantized": Quantized}) == plan
    done = subprocess.run([sys.executable, "-c", REPLAY, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("True", "")


def test_it_trains_with_a_gradient_for_every_weight(plan: Quantized, model: nn.Module, x: Tensor) -> None:
    torch.manual_seed(0)
    new, labels = plan.apply(model).train(), torch.randint(0, 10, (64,))
    optimizer = torch.optim.Adam(new.parameters(), 1e-2)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(new(x), labels)
        loss.backward()
        assert all(value.grad is not None and bool(value.grad.any()) for value in new.parameters())
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    moved = {name for name, value in plan.apply(model).state_dict().items() if name.startswith("grids")}
    assert all(torch.equal(new.state_dict()[name], plan.apply(model).state_dict()[name]) for name in moved)


class Recurrent(nn.Module):
    """One block that stands in two places and is called three times, with ranges that grow."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.again = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.alias = self.again
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        for _ in range(2):
            x = x + 2 * self.again(x)
        return self.head(self.alias(x).mean((2, 3)))


def test_what_is_shared_stays_shared_with_a_grid_for_each_call(x: Tensor, context: Context) -> None:
    torch.manual_seed(0)
    model = Recurrent().eval()
    plan = Quantize().plan(model, context)
    assert {"again.1", "again.1@1", "again.1@2"} <= set(plan.edges)
    assert plan.edges["again.1"] != plan.edges["again.1@2"]
    new = plan.apply(model)
    assert new.alias is new.again
    with torch.no_grad():
        assert float((new(x) - model(x)).norm() / model(x).norm()) < 0.05


def test_layers_that_are_left_out_keep_their_weights(model: nn.Module, context: Context, x: Tensor) -> None:
    plan = Quantize(where=nn.Conv2d, exclude=("stem", "layer1.*"), weight_bits=4).plan(model, context)
    assert set(plan.weights) == {f"layer{i}.0.{name}" for i in (2, 3) for name in ("conv1", "conv2", "shortcut.0")}
    assert "head" not in plan.weights
    assert set(plan.weights.values()) == {4}
    new = plan.apply(model)
    with capture(new, [Tap(path="stem")]) as seen, torch.no_grad():
        new(x)
    assert torch.equal(seen[Tap(path="stem")], new.stem(x))


def test_what_cannot_be_done_is_said(model: nn.Module, context: Context, plan: Quantized, x: Tensor) -> None:
    with pytest.raises(PlanError, match="calibration"):
        Quantize().plan(model, Context(inputs=x))
    with pytest.raises(PlanError, match="quantized already"):
        Quantize().plan(plan.apply(model), context)
    with pytest.raises(PlanError, match="quantized already"):
        plan.apply(plan.apply(model))
    with pytest.raises(PlanError, match="another network"):
        plan.apply(residual(width=8, depth=14, pre_activation=True))
    with pytest.raises(PlanError, match="where"):
        Quantize(where="nowhere").plan(model, context)
    spoiled = copy.deepcopy(model)
    with torch.no_grad():
        next(spoiled.parameters()).fill_(float("nan"))
    with pytest.raises(PlanError, match="not finite"):
        Quantize().plan(spoiled, context)
    with pytest.raises(SettingError, match="bits"):
        Quantize(bits=16)
    with pytest.raises(SettingError, match=r"weight_bits would have no effect.*QuantizeWeights"):
        Quantize(bits=32, weight_bits=8)


def test_the_plan_tells_what_is_done(plan: Quantized) -> None:
    rows = plan.describe()
    assert rows[0]["module"] == "stem"
    assert "folded norm" in rows[0]["edit"]
    assert len(rows) == len(plan.weights) + len(plan.edges) + 1
    assert rows[-1]["edit"] == "made for"
