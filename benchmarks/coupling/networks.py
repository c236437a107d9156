"""The networks that are pruned: how each is built, what its images are, and how it is made to look as if trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

LIST = Path(__file__).parent / "networks.json"
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Named(NamedTuple):
    """A network of a library.

    Args:
        name: As `lessen measure` takes it, "timm:resnet18".
        image: Height and width of its images.
        arguments: What its constructor is given.
    """

    name: str
    image: int
    arguments: dict[str, Any]

    @property
    def file(self) -> str:
        """A name for files."""
        return self.name.replace(":", "--")


def networks() -> list[Named]:
    """All of them, in the order of the list."""
    return [Named(**row) for row in json.loads(LIST.read_text())]


def build(named: Named, *, seed: int = 0) -> nn.Module:
    """The network with random weights, in evaluation mode."""
    library, _, name = named.name.partition(":")
    torch.manual_seed(seed)
    if library == "timm":
        import timm

        return timm.create_model(name, **named.arguments).eval()
    import torchvision

    return torchvision.models.get_model(name, weights=None, **named.arguments).eval()


def images(named: Named, count: int, *, seed: int = 0) -> Tensor:
    """Random images for it."""
    return torch.rand(count, 3, named.image, named.image, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def lived_in(network: nn.Module, x: Tensor) -> nn.Module:
    """As if trained: zeros in a head, layer scales of 1e-6 and signals that fade away would hide what is wrong."""
    torch.manual_seed(1)
    for parameter in network.parameters():
        if parameter.ndim < 2 or parameter.abs().max() < 1e-3:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    norms = [part for part in network.modules() if isinstance(part, BATCH_NORMS)]
    if norms:
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 1.0  # the statistics of these images
        network.train()(x)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    return network.eval()
