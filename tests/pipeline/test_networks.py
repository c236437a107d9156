"""The networks of a caller are never touched, and what is frozen in them stays frozen."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lessen
from lessen.core import Operation
from lessen.core.errors import LessenError, NetworkError
from lessen.deploy import Deploy, OnnxRuntime, deploy, export_onnx, export_pt2
from lessen.deploy.deployment import file_axes
from lessen.graph import Fit
from lessen.measure import count_multiply_adds, measure, peak_memory, time_networks
from lessen.measure.task import with_task
from lessen.operations import Equalize, Half, LowRank, PruneChannels, PruneWeights, QuantizeWeights, Reinitialize
from lessen.pipeline.networks import carry_frozen, freeze, frozen_names
from lessen.schemes import Offline, offline, supervised
from lessen.surgery.copying import copy_network
from lessen.surgery.coupling import analyse
from lessen.testing.tasks import clusters, perceptron

Arguments = Callable[..., dict[str, Any]]


def seen(network: nn.Module) -> dict[str, Any]:
    """All that a caller can see of a network: weights, modes, freedom, hooks, which objects they are."""
    return {
        "weights": {name: value.tolist() for name, value in network.state_dict().items()},
        "modes": [module.training for module in network.modules()],
        "free": [parameter.requires_grad for parameter in network.parameters()],
        "hooks": [list(module._forward_hooks) for module in network.modules()],
        "classes": [type(module) for module in network.modules()],
        "objects": [id(value) for value in (*network.parameters(), *network.buffers())],
        "attributes": [sorted(vars(module)) for module in network.modules()],
    }


def lived_in() -> nn.Module:
    """A network in a mode of its own, with a hook and a frozen layer."""
    network = perceptron(8, seed=0).train()
    network.norm.eval()
    network.layer2.requires_grad_(False)
    network.head.register_forward_hook(lambda *given: None)
    return network


@pytest.mark.parametrize("stopped", [None, "gather", "train_stages", "deploy_steps"])
def test_the_networks_of_the_caller_are_as_they_were(
    stopped: str | None, job: Arguments, stop_at: Any, tmp_path: Path
) -> None:
    teacher, student = lived_in(), lived_in()
    before = seen(teacher), seen(student)
    given = job(teacher=teacher, student=student, train=[supervised(epochs=1, fit=Fit(batch=16))])
    if stopped is None:
        lessen.compress(run=tmp_path / "run", **given)
    else:
        with pytest.raises(stop_at(stopped)):
            lessen.compress(run=tmp_path / "run", **given)
    assert (seen(teacher), seen(student)) == before


def deployed(network: nn.Module, other: nn.Module, folder: Path) -> None:
    deploy(network, clusters(), folder, reference=other, settings=Deploy(runtimes=(OnnxRuntime(),), rounds=6))


LOOKS: dict[str, Callable[[nn.Module, nn.Module, Path], object]] = {
    "measure": lambda network, other, _: measure(network, clusters(), teacher=other, repeats=6),
    "deploy": deployed,
    "explain": lambda network, _, __: analyse(network, clusters().example()),
    "sizes of a file": lambda network, _, __: file_axes(network, clusters().example()),
    "ONNX": lambda network, _, folder: export_onnx(network, clusters().example(), folder / "m.onnx"),
    "pt2": lambda network, _, folder: export_pt2(network, clusters().example(), folder / "m.pt2"),
    "times": lambda network, other, _: time_networks({"one": network, "two": other}, clusters().example(), rounds=6),
    "multiply-adds": lambda network, _, __: count_multiply_adds(network, clusters().example()),
    "memory": lambda network, _, __: peak_memory(network, clusters().example()),
    "task": lambda network, _, __: with_task(clusters(), network),
    "a copy": lambda network, _, __: torch.nn.init.zeros_(copy_network(network).head.weight),
}


CHANGES: list[Callable[[nn.Module], object]] = [
    lambda network: network.eval(),
    lambda network: network.requires_grad_(True),
    lambda network: network.head.register_forward_hook(lambda *given: None),
    lambda network: network.head.weight.data.add_(1),
    lambda network: setattr(network, "head", copy.deepcopy(network.head)),
    lambda network: setattr(network, "looked_at", True),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_network_that_was_changed_is_seen_to_be(change: Callable[[nn.Module], object]) -> None:
    network = lived_in()
    before = seen(network)
    change(network)
    assert seen(network) != before


@pytest.mark.parametrize("look", LOOKS)
def test_whatever_looks_at_networks_leaves_them_as_they_were(look: str, tmp_path: Path) -> None:
    network, other = lived_in(), lived_in()
    before = seen(network), seen(other)
    LOOKS[look](network, other, tmp_path)
    assert (seen(network), seen(other)) == before


def test_layers_that_were_frozen_stay_as_they_are(job: Arguments, tmp_path: Path) -> None:
    network = perceptron(8, seed=0)
    network.layer2.requires_grad_(False)
    steps = [PruneWeights(keep=0.5, where="layer2"), offline(epochs=1, fit=Fit(batch=16)), Half(where="head")]
    made = lessen.compress(run=tmp_path / "run", **job(teacher=network, steps=steps)).model
    kept = made.layer2.weight != 0
    assert torch.equal(made.layer2.weight[kept], network.layer2.weight[kept])
    assert torch.equal(made.layer2.bias, network.layer2.bias)
    assert not torch.equal(made.layer1.weight, network.layer1.weight)
    assert set(frozen_names(made)) == {"layer2.weight", "layer2.bias"}
    again = lessen.resume(tmp_path / "run", **job(teacher=perceptron(8, seed=5), steps=steps)).model
    assert set(frozen_names(again)) == {"layer2.weight", "layer2.bias"}


def test_a_network_can_be_compressed_twice_and_frozen_as_a_whole_too(
    job: Arguments, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = perceptron(8, seed=0)
    first = lessen.compress(run=tmp_path / "first", **job(teacher=network))
    assert "frozen" not in caplog.text
    network.requires_grad_(False)  # as is usual for a teacher
    second = lessen.compress(run=tmp_path / "second", **job(teacher=network))
    assert "completely frozen" in caplog.text
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not torch.equal(first.model.layer2.weight, network.layer2.weight)
    assert all(torch.equal(v, second.model.state_dict()[k]) for k, v in first.model.state_dict().items())


def test_a_step_with_nothing_to_train_is_refused_before_anything_is_written(job: Arguments, tmp_path: Path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :4]

    with pytest.raises(LessenError, match="No node learns"):
        lessen.compress(run=tmp_path / "run", **job(student=Fixed(), steps=[Offline(epochs=1)]))
    assert not (tmp_path / "run").exists()


OPERATIONS: dict[str, Operation] = {
    "channels": PruneChannels(keep=0.5),
    "weights": PruneWeights(keep=0.5),
    "half": Half(),
    "codes": QuantizeWeights(bits=4),
    "rank": LowRank(ratio=0.5),
    "equalize": Equalize(),
    "fresh": Reinitialize(),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_keeps_frozen_what_was_frozen(name: str, job: Arguments, tmp_path: Path) -> None:
    network = perceptron(8, seed=0)
    network.layer1.requires_grad_(False)
    made = lessen.compress(run=tmp_path / "run", **job(teacher=network, steps=[OPERATIONS[name]])).model
    free = {path for path, parameter in made.named_parameters() if parameter.requires_grad}
    assert free
    assert all(not path.startswith("layer1") for path in free)
    assert {"layer2", "head"} <= {path.split(".")[0] for path in free}


def test_a_new_weight_is_frozen_where_what_it_replaces_was() -> None:
    before = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    freeze(before, ["0.weight", "0.bias", "1.weight"])
    pair = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 2))
    after = carry_frozen(before, nn.Sequential(pair, copy.deepcopy(before[1])))
    assert set(frozen_names(after)) == {"0.0.weight", "0.1.weight", "0.1.bias", "1.weight"}


class Remembers(nn.Module):
    """A network whose state no file of tensors can keep."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def get_extra_state(self) -> dict[str, int]:
        return {"seen": 1}

    def set_extra_state(self, state: object) -> None: ...


class Generates(nn.Linear):
    """A network that cannot be copied."""

    def __init__(self) -> None:
        super().__init__(8, 4)
        self.more = (number for number in range(3))


class InPlace(nn.Module):
    """A network that changes what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x.mul_(2.0))


def broken(value: float) -> nn.Module:
    network = perceptron(8, seed=0)
    with torch.no_grad():
        network.layer1.weight[0, 0] = value
    return network


NETWORKS: dict[str, tuple[nn.Module, str]] = {
    "extra state": (Remembers(), r"keeps '_extra_state' in its state, a dict"),
    "a generator": (Generates(), r"cannot be copied, because of the attribute .more."),
    "in place": (InPlace(), r"changes its inputs in place"),
    "no numbers": (perceptron(8, seed=0).to("meta"), r"has no weights yet"),
    "NaN": (broken(float("nan")), r"NaN or infinity.*not finite either, as layer1\.weight"),
    "infinity": (broken(float("inf")), r"NaN or infinity"),
    "no batch of one": (
        nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4, track_running_stats=False)),
        r"does not run.*batch of one",
    ),
}


@pytest.mark.parametrize("role", ["teacher", "student"])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_that_no_run_can_carry_are_refused_first(name: str, role: str, job: Arguments, tmp_path: Path) -> None:
    network, says = NETWORKS[name]
    with pytest.raises(NetworkError, match=says):
        lessen.compress(run=tmp_path / "run", **job(**{role: network}))
    assert not (tmp_path / "run").exists()


def test_a_network_that_a_step_breaks_is_an_error_and_no_accuracy(job: Arguments, tmp_path: Path) -> None:
    """The outputs are finite on the first examples, and infinite on one of the test split."""
    data = clusters()
    data.test.inputs[5] *= 1e30  # type: ignore[union-attr]
    with pytest.raises(NetworkError, match=r"1 of 32 examples of the test split of clusters"):
        lessen.compress(run=tmp_path / "run", **job(teacher=Cubes(), data=data, steps=[]))


class Cubes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x**3)
