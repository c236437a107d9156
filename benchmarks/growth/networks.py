"""The networks: residual ones of 8 to 398 layers, and eight real ones with random weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lessen.core import ArrayExamples, Data
from lessen.core.seeds import seeded
from lessen.zoo import residual

DEPTHS = (8, 32, 62, 128, 200, 398)
"""Residual networks have 6 n + 2 layers."""
FIT = (32, 398)
"""The exponent is that between these two."""


@dataclass(frozen=True)
class Subject:
    """A network to measure on.

    Args:
        make: Builds it.
        shape: Of one example.
        vocabulary: How many tokens there are, where examples are tokens; None where they are images.
        classes: How many it tells apart.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    vocabulary: int | None = None
    classes: int = 10

    def build(self) -> nn.Module:
        """The network, in eval mode, with statistics of batch normalisation of its own inputs."""
        with seeded(0, "growth"):
            network = self.make()
        inputs = self.inputs(4)
        norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = 1.0
        if norms:
            with torch.no_grad():
                network.train()(inputs)
        for norm in norms:
            norm.momentum = 0.1
        return network.eval()

    def inputs(self, count: int = 2, seed: int = 0) -> Tensor:
        """Examples."""
        drawn = torch.Generator().manual_seed(seed)
        if self.vocabulary is not None:
            return torch.randint(self.vocabulary, (count, *self.shape), generator=drawn)
        return torch.randn(count, *self.shape, generator=drawn)

    def data(self) -> Data:
        """64 training examples, 32 of each other split."""
        drawn = torch.Generator().manual_seed(1)
        splits = [
            ArrayExamples(self.inputs(count, seed), torch.randint(self.classes, (count,), generator=drawn))
            for seed, count in enumerate((64, 32, 32))
        ]
        names = tuple(f"class {number}" for number in range(self.classes))
        return Data(train=splits[0], validation=splits[1], test=splits[2], classes=names, name="random")


class Bert(nn.Module):
    """BERT for classification, from tokens to logits."""

    def __init__(self, **sizes: int) -> None:
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(num_labels=10, attn_implementation="eager", **copy.deepcopy(sizes))
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens_NT: Tensor) -> Tensor:
        logits_NC: Tensor = self.bert(tokens_NT).logits
        return logits_NC


def _vision(name: str, size: int = 64) -> Subject:
    def make() -> nn.Module:
        import torchvision

        network: nn.Module = getattr(torchvision.models, name)(weights=None, num_classes=10)
        return network

    return Subject(make, (3, size, size))


def residual_name(depth: int) -> str:
    """What the residual network of this depth is called."""
    return f"residual-{depth}"


SUBJECTS: Mapping[str, Subject] = {
    **{
        residual_name(depth): Subject(lambda depth=depth: residual(width=8, depth=depth, stem_stride=1), (1, 16, 16))
        for depth in DEPTHS
    },
    "resnet18": _vision("resnet18"),
    "resnet50": _vision("resnet50"),
    "resnet152": _vision("resnet152"),
    "densenet201": _vision("densenet201"),
    "efficientnet_v2_l": _vision("efficientnet_v2_l"),
    "vit_b_16": _vision("vit_b_16", 224),
    "convnext_base": _vision("convnext_base"),
    "bert-base": Subject(Bert, (32,), vocabulary=30522),
}
REAL = tuple(name for name in SUBJECTS if not name.startswith("residual"))
