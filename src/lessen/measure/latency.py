"""Milliseconds and examples per second of networks on given inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import nn

from lessen.core.data import Inputs, call, map_inputs
from lessen.core.estimate import Estimate
from lessen.measure.disturbance import Conditions
from lessen.measure.evaluate import Runnable, device_of, evaluating
from lessen.measure.timing import interleave
from lessen.measure.timings import Timings


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How fast one network or file is at one batch size.

    Args:
        conditions: What else the machine did meanwhile.
        latency: Milliseconds of a call; None if the machine was busy.
        cpu: CPU milliseconds of a call, of all its threads together; None if the CPU clock is too coarse.
        speedup: How many times faster than the reference; None if the machine was busy, or without a reference.
    """

    conditions: Conditions
    latency: Estimate | None
    cpu: Estimate | None
    speedup: Estimate | None = None

    @classmethod
    def of(cls, timings: Timings, name: str, reference: str | None = None) -> Self:
        """What was timed under a name, against a reference timed in the same run."""
        cpu = timings.cpu_estimate(name)
        if timings.busy is not None:
            return cls(conditions=timings.conditions, latency=None, cpu=cpu)
        ratio = None if reference is None else Estimate(*timings.ratio(reference, name))
        return cls(conditions=timings.conditions, latency=timings.estimate(name), cpu=cpu, speedup=ratio)

    def figures(self, batch: int, *, compared: bool) -> Iterator[tuple[str, Estimate | None, str]]:
        """Name, value and unit of each figure; the value is None where the machine was busy.

        Args:
            batch: Examples in a call.
            compared: Whether there was a reference.
        """
        yield "latency", self.latency, "ms"
        yield "throughput", None if self.latency is None else throughput(self.latency, batch), "examples/s"
        if compared:
            yield "speedup", self.speedup, "1"
        if self.cpu is not None:
            yield "cpu_time", self.cpu, "ms"

    def detail(self) -> dict[str, Any]:
        """What a record of these figures must say: the conditions, and why there is no figure."""
        busy = self.conditions.busy
        said = {"conditions": self.conditions.to_json()}
        return said if busy is None else {**said, "reason": f"the machine was busy: {busy}"}


def time_networks(
    networks: Mapping[str, Runnable], inputs: Inputs, *, rounds: int = 30, warm_up: int = 2, seed: int = 0
) -> Timings:
    """Time networks on the same inputs, interleaved, in eval mode and without gradients.

    Inputs are moved to each network's device beforehand, and accelerators are waited for inside the timed call.
    Settings and errors as of `interleave`.
    """
    with ExitStack() as stack:
        for network in networks.values():
            stack.enter_context(evaluating(network))
        runs = {name: _ready(network, inputs) for name, network in networks.items()}
        return interleave(runs, rounds=rounds, warm_up=warm_up, seed=seed)


def throughput(latency: Estimate, batch: int) -> Estimate:
    """Examples per second from the milliseconds that a batch takes.

    >>> throughput(Estimate(20.0, 10.0, 40.0), batch=4)
    Estimate(value=200.0, low=100.0, high=400.0)
    """
    low, high = (None if end is None else 1000 * batch / end for end in (latency.high, latency.low))
    return Estimate(1000 * batch / latency.value, low, high)


def _ready(network: Runnable, inputs: Inputs) -> Callable[[], Any]:
    if not isinstance(network, nn.Module):
        return lambda: network(inputs)
    device = device_of(network)
    moved = map_inputs(inputs, lambda value: value.to(device))
    if device.type != "cuda":
        return lambda: call(network, moved)

    def run() -> None:
        call(network, moved)
        torch.cuda.synchronize(device)

    return run
