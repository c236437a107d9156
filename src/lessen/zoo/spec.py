"""A network as settings: what makes it, from which arguments, with which weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from lessen.core.settings import settings
from lessen.zoo.build import build, is_own


@settings
class Build:
    """A network, by the name of what makes it.

    Args:
        build: "zoo:residual", "trained:fashion_mnist", "timm:NAME", "torchvision:NAME", "transformers:NAME" or
            "module:factory".
        arguments: What it is called with.
        weights: A safetensors file, or a checkpoint of tensors and plain values, next to the recipe; None initialises
            randomly.
    """

    build: str
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: Path | None = None

    def __post_init__(self) -> None:
        for name in ("weights", "seed"):
            if name in self.arguments:
                raise ValueError(f"{name!r} is not an argument of the network; set it next to `arguments`.")

    @property
    def imports(self) -> bool:
        """Whether making it runs a module of somebody's own."""
        return is_own(self.build)

    def make(self, *, seed: int, weights: bool = True) -> nn.Module:
        """The network.

        Args:
            seed: For drawing weights.
            weights: Whether to read the file; a run that is resumed brings its own.
        """
        return build(self.build, weights=self.weights if weights else None, seed=seed, **self.arguments)


def builds_in(value: Any) -> Iterator[Build]:
    """Every `Build` in a settings object, however deep it lies in it."""
    if isinstance(value, Build):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from builds_in(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from builds_in(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from builds_in(getattr(value, field.name))
