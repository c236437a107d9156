"""The clock of files: a network is as fast as itself, files with other tensors in them are the networks' own."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lessen.core import Clock, Context
from lessen.deploy import FileClock
from lessen.deploy import clock as clock_module
from lessen.measure import Timings
from lessen.measure.disturbance import Conditions
from lessen.operations import PruneChannels
from lessen.zoo import lenet5


def images() -> Tensor:
    return torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def pruned(keep: float) -> nn.Module:
    torch.manual_seed(0)
    network = lenet5().eval()
    return PruneChannels(keep=keep).plan(network, Context(inputs=images())).apply(network)


def test_it_exports_once_and_times_what_the_networks_are(monkeypatch: pytest.MonkeyPatch) -> None:
    exported = []
    export = clock_module.export_onnx
    monkeypatch.setattr(
        clock_module, "export_onnx", lambda network, *rest, **more: exported.append(1) or export(network, *rest, **more)
    )
    clock = FileClock(rounds=10, batch=3)
    assert isinstance(clock, Clock)
    assert clock.says() == "fp32 in ONNX Runtime, batch 3, 1 thread"
    networks = [pruned(1.0), pruned(0.5), pruned(0.2)]
    programs = clock._programs(networks, images()[torch.tensor([0, 1, 0])])
    assert len(exported) == 1, "the first is exported, the others are its file with their tensors"
    for network, program in zip(networks, programs, strict=True):
        x = torch.rand(5, 1, 28, 28)
        with torch.no_grad():
            assert torch.allclose(program(x), network(x), atol=1e-5)
    times = clock.times(networks, images())
    assert times.note is None
    assert len(times.milliseconds) == 3
    assert times.milliseconds[0] > times.milliseconds[2] > 0, "a tenth of the channels' products are left"


def test_on_a_busy_machine_it_falls_back_to_cpu_times_and_says_so() -> None:
    busy = Conditions(busy="other processes wanted 400% of its cores")
    wall = {"0": np.full(20, 66.0), "1": np.full(20, 1.0)}
    cpu = {"0": np.full(20, 6.6), "1": np.full(20, 1.0)}
    found = FileClock()._trusted(Timings(wall, {}, cpu, busy))
    assert found.milliseconds == pytest.approx((6.6, 1.0))
    assert found.note is not None
    assert "machine was busy" in found.note
    assert "CPU times" in found.note
    for clock, kept in ((FileClock(threads=2), cpu), (FileClock(), {})):  # no CPU time, or that of several threads
        found = clock._trusted(Timings(wall, {}, kept, busy))
        assert found.milliseconds == pytest.approx((66.0, 1.0))
        assert "calls were interrupted" in str(found.note)


def test_a_network_of_another_kind_is_exported_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names of the tensors are the same, and the function is another: the file with other tensors is refused."""

    class Plain(nn.Module):
        def __init__(self, doubled: bool) -> None:
            super().__init__()
            self.one, self.doubled = nn.Linear(4, 4), doubled

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.one(x)
            return y.relu() if self.doubled else y

    networks, x = [Plain(False).eval(), Plain(True).eval()], torch.randn(2, 4)
    clock = FileClock(rounds=10)
    with torch.no_grad():
        found = [program(x) for program in clock._programs(networks, x)]
        assert all(torch.allclose(a, b(x), atol=1e-6) for a, b in zip(found, networks, strict=True))
        # The planted error: believe that the names are enough.
        monkeypatch.setattr(
            FileClock, "_proven", lambda self, file, network, inputs: clock_module.OnnxRuntime().load(file, threads=1)
        )
        wrong = clock._programs(networks, x)[1](x)
        assert not torch.allclose(wrong, networks[1](x), atol=1e-6)
