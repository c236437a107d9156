"""The averages of networks that learn, next to them, and for a moment or for good in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lessen.engine.checkpoint import under
from lessen.optim.average import Average


class Averages:
    """Averages of all that some modules hold.

    Args:
        how: The settings.
        modules: By name.

    Attributes:
        mean: The averages by name; a tensor that several modules share once.
    """

    def __init__(self, how: Average, modules: Mapping[str, nn.Module]) -> None:
        self._how, self._modules = how, dict(modules)
        self.mean: dict[str, Tensor] = {name: value.detach().clone() for name, value in self._now().items()}

    def _now(self) -> dict[str, Tensor]:
        """The tensors themselves, looked up each time: a module may put others in their place."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for place, module in self._modules.items():
            for name, value in [*module.named_parameters(), *module.named_buffers()]:
                if id(value) not in seen:
                    seen.add(id(value))
                    found[f"{place}/{name}"] = value
        return found

    @property
    def buffers(self) -> list[Tensor]:
        """The averages of what each process moves by itself."""
        names = {f"{place}/{name}" for place, module in self._modules.items() for name, _ in module.named_buffers()}
        return [value for name, value in self.mean.items() if name in names]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the averages; so many steps were made before this one."""
        now, share = self._now(), 1 - self._how.kept(step)
        floating = [name for name, value in now.items() if value.is_floating_point()]
        mean, towards = [self.mean[name] for name in floating], [now[name] for name in floating]
        if share == 1:
            torch._foreach_copy_(mean, towards)
        elif mean:
            torch._foreach_lerp_(mean, towards, share)
        for name in now.keys() - set(floating):
            self.mean[name].copy_(now[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Let the networks be their averages in this block."""
        before = {name: value.detach().clone() for name, value in self._now().items()}
        self.settle()
        try:
            yield
        finally:
            self._set(before)

    def settle(self) -> None:
        """Let the networks be their averages."""
        self._set(self.mean)

    @torch.no_grad()
    def _set(self, values: Mapping[str, Tensor]) -> None:
        for name, value in self._now().items():
            value.copy_(values[name])

    def state(self) -> dict[str, Tensor]:
        """The averages, as a checkpoint names them."""
        return {f"average/{name}": value for name, value in self.mean.items()}

    @torch.no_grad()
    def put_back(self, tensors: Mapping[str, Tensor]) -> None:
        """What `state` gave."""
        for name, value in under("average", tensors).items():
            self.mean[name].copy_(value)
