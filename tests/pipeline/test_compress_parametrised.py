"""A network with weight norm, spectral norm and masks of PyTorch, which remembers its features, from end to end."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, weight_norm

import lessen
from lessen.core import Operation
from lessen.core.seeds import seeded
from lessen.graph import Fit
from lessen.operations import Half, PruneChannels, PruneWeights, Quantize
from lessen.schemes import offline
from lessen.surgery.plain import foreign


class Remembers(nn.Module):
    """The last features stay an attribute, with their graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x_NC: Tensor) -> Tensor:
        self.features = self.third(self.second(self.first(x_NC).relu()).relu()).relu()
        logits_NC: Tensor = self.head(self.features)
        return logits_NC


def build(seed: int) -> nn.Module:
    with seeded(seed, "network"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network = Remembers()
        parametrizations.weight_norm(network.first)
        weight_norm(network.second)
        parametrizations.spectral_norm(network.third)
        prune.random_unstructured(network.head, "weight", 0.5)
    network(torch.ones(2, 8)).sum().backward()
    return network


STEPS: dict[str, list[Operation]] = {
    "weights": [PruneWeights(keep=0.5, where="first")],
    "channels, half": [PruneChannels(keep=0.5), Half()],
    "int8": [Quantize()],
}


@pytest.mark.parametrize("name", STEPS)
def test_it_is_trained_compressed_trained_again_and_loaded(
    name: str, job: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    network = build(0)
    features, zeros = network.features, network.head.weight_mask == 0
    steps = [offline(epochs=1, fit=Fit(batch=16)), *STEPS[name], offline(epochs=1, fit=Fit(batch=16))]
    made = lessen.compress(run=tmp_path / "run", **job(teacher=network, steps=steps)).model
    assert network.features is features
    assert len(list(foreign(network))) == 4
    assert not list(foreign(made))
    if made.head.weight.shape == zeros.shape:
        assert bool((made.head.weight[zeros] == 0).all()), "training moved what PyTorch had pruned"
    x_NC = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(lessen.load(tmp_path / "run", build(1))(x_NC), made(x_NC))
    said = (tmp_path / "run" / "layers.json").read_text()
    assert all(f"computed by {kind}" in said for kind in ("WeightNorm", "SpectralNorm"))
    assert "torch.nn.utils.prune" in said
