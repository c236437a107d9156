"""Ways: how a network runs once more in a graph, with the same weights.

Dropout: Wu et al., R-Drop, NeurIPS 2021, arXiv:2106.14448. Noise on inputs: Xie et al., Self-training with noisy
student, CVPR 2020, arXiv:1911.04252. Layers left out: Huang et al., Deep networks with stochastic depth, ECCV 2016,
arXiv:1603.09382.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import TapError
from lessen.core.settings import settings
from lessen.surgery.taps import Tap, resolve


class Way:
    """What is different in the other pass. What is drawn comes from torch's global generators, seeded by the graph."""

    def check(self, network: nn.Module) -> None:
        """Whether the network can run in this way.

        Raises:
            TapError: a module that is named does not exist, or there is nothing to change.
        """

    def change(self, inputs: Inputs) -> Inputs:
        """The inputs of the other pass."""
        return inputs

    @contextmanager
    def during(self, network: nn.Module) -> Iterator[None]:
        """While the other pass runs."""
        yield


@settings
class InputNoise(Way):
    """Normal noise is added to floating-point inputs.

    Args:
        deviation: The standard deviation, in the units of the inputs.
    """

    deviation: Annotated[float, Field(gt=0)] = 0.1

    def change(self, inputs: Inputs) -> Inputs:
        return map_inputs(inputs, self._noised)

    def _noised(self, value: Tensor) -> Tensor:
        return value + self.deviation * torch.randn_like(value) if value.is_floating_point() else value


@settings
class WithDropout(Way):
    """Dropout is on, whatever mode the network is in; a learning network draws another mask than in its own pass."""

    def check(self, network: nn.Module) -> None:
        if not _dropouts(network):
            raise TapError("the network has no dropout. Use another way.")

    @contextmanager
    def during(self, network: nn.Module) -> Iterator[None]:
        found = [(module, module.training) for module in _dropouts(network)]
        for module, _ in found:
            module.training = True
        try:
            yield
        finally:
            for module, training in found:
                module.training = training


@settings
class WithoutLayers(Way):
    """Modules are left out: each gives what it is given, so it must keep the shape.

    Args:
        paths: Their dotted names, as `named_modules` gives them.
    """

    paths: Annotated[tuple[str, ...], Field(min_length=1)]

    def check(self, network: nn.Module) -> None:
        for path in self.paths:
            resolve(network, Tap(path=path))

    @contextmanager
    def during(self, network: nn.Module) -> Iterator[None]:
        modules = [resolve(network, Tap(path=path)) for path in self.paths]
        before = [module.__dict__.get("forward") for module in modules]
        for module in modules:
            module.__dict__["forward"] = _given
        try:
            yield
        finally:
            for module, own in zip(modules, before, strict=True):
                if own is None:
                    del module.__dict__["forward"]
                else:
                    module.__dict__["forward"] = own


def _given(value: Tensor) -> Tensor:
    return value


def _dropouts(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, _DropoutNd)]


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """While a network runs once more: its batch norms do not count this pass in their running statistics."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
