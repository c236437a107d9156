"""The nine networks of others that pruning must handle, at sizes that a test can afford. Runs alone for a replay."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lessen.core import decode
from lessen.core.files import read_tensors, write_tensors
from lessen.operations import PrunedChannels


def _torchvision(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import torchvision

        return getattr(torchvision.models, name)(**settings)

    return make


def _timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        import timm

        return timm.create_model(name, **settings)

    return make


# name -> (how to build it, height and width of its images)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (_torchvision("resnet18"), 64),
    "mobilenet_v2": (_torchvision("mobilenet_v2"), 64),
    "vgg11_bn": (_torchvision("vgg11_bn", init_weights=False), 32),
    "densenet121": (_torchvision("densenet121"), 64),
    "vit_b_16": (_torchvision("vit_b_16", image_size=32), 32),
    "convnext_tiny": (_torchvision("convnext_tiny"), 64),
    "mobilenetv3_small_100": (_timm("mobilenetv3_small_100"), 64),
    "regnetx_002": (_timm("regnetx_002"), 64),
    "vit_tiny_patch16_224": (_timm("vit_tiny_patch16_224", img_size=32), 32),
}


def build(name: str) -> nn.Module:
    """A network with random weights, in evaluation mode."""
    make, _ = NETWORKS[name]
    return make().eval()


def images(name: str, count: int = 2) -> torch.Tensor:
    """Random images for it."""
    return torch.rand(count, 3, *[NETWORKS[name][1]] * 2, generator=torch.Generator().manual_seed(0))


def replay(folder: Path) -> None:
    """Rebuild every network of a folder from its plan and its weights, and write what it computes."""
    for file in sorted(folder.glob("*.plan.json")):
        name = file.name.removesuffix(".plan.json")
        plan = decode(json.loads(file.read_text()), {"PrunedChannels": PrunedChannels})
        network = plan.apply(build(name), values=False)
        network.load_state_dict(read_tensors(folder / f"{name}.safetensors"), strict=True, assign=True)
        with torch.no_grad():
            write_tensors(folder / f"{name}.outputs", {"outputs": network(images(name))})


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    replay(Path(sys.argv[1]))
