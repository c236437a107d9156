"""Milliseconds and examples per second of networks on given inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from lessen.core.data import Inputs, call, map_inputs
from lessen.measure.evaluate import Runnable, device_of, evaluating
from lessen.measure.intervals import Estimate
from lessen.measure.timing import Timings, interleave


def time_networks(
    networks: Mapping[str, Runnable], inputs: Inputs, *, rounds: int = 30, warm_up: int = 3, seed: int = 0
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
