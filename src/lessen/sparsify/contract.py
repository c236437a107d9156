"""Sparse training: while a network learns, something other than the optimizer decides which of its weights stay.

`Fit(sparsify=...)`, or a node's own `sparsify`, names the settings. `start` puts what is needed on the network and
gives a `Sparsifier`, whose state is stored in checkpoints and in the state of the best epoch. What it leaves behind at
the end of the stage are masks, which a pipeline writes to the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.errors import PlanError
from lessen.core.where import Where
from lessen.operations.prune_weights import Weights, candidates
from lessen.optim.optimizer import SGD, Optimizer
from lessen.optim.schedule import Constant, Schedule
from lessen.surgery.forms.mask import Mask, close_mask, mask_of, mask_parameter
from lessen.surgery.forms.places import Owners
from lessen.surgery.forms.registering import stored


@runtime_checkable
class Sparsify(Protocol):
    """Settings of sparse training."""

    card: ClassVar[Card]

    def check(self, model: nn.Module, /) -> None:
        """Whether it can be done on this network; nothing is changed.

        Raises:
            PlanError: it cannot; the text says why.
        """

    def start(self, model: nn.Module, /) -> Sparsifier:
        """Prepare a network in place, before its first step, and return the sparsifier that acts on it."""


class HasWhere(Protocol):
    """Settings that say for which modules they are."""

    @property
    def where(self) -> Where: ...

    @property
    def exclude(self) -> Where: ...


def some_weights(settings: HasWhere, model: nn.Module) -> Weights:
    """The weights of a network that settings mean.

    Raises:
        PlanError: there are none.
    """
    chosen, left = candidates(model, settings.where, settings.exclude)
    if not chosen:
        why = "; ".join(f"{name} is {reason}" for name, reason in left.items())
        raise PlanError(f"{type(settings).__name__} finds no weights to prune in this network. {why}".rstrip())
    return chosen


class Sparsifier(nn.Module):
    """What acts on one network while it trains.

    It is made before the first step; `before_step` and `after_step` are called around every step of the optimizer, and
    `close` once, at the end. Whatever decides how it goes on is in its state (parameters and buffers). Its parameters,
    if it has any, learn with the network, by an optimizer of their own.
    """

    optimizer: Optimizer = SGD(rate=1.0, momentum=0.0, nesterov=False, decay=0.0)
    schedule: Schedule = Constant()

    def before_step(self, progress: float, rate: float) -> None:
        """Gradients are there and clipped, weights have not moved.

        Args:
            progress: Of the stage, in [0, 1).
            rate: The network's learning rate in this step.
        """

    def after_step(self, progress: float, rate: float) -> None:
        """Weights have moved.

        Args:
            progress: Of the stage with this step, in (0, 1].
            rate: The network's learning rate in this step.
        """

    def settled(self, progress: float) -> bool:
        """Whether the network is as sparse as it will be: before that, no epoch can be the best."""
        return True

    def close(self) -> None:
        """Make what was decided final, and take hooks away."""


class MaskMover(Sparsifier):
    """A sparsifier that moves masks. What is masked keeps its value until the end, unless the optimizer moves it.

    Args:
        model: The network; its chosen weights get open masks that keep everything that was not pruned before.
        chosen: The weights, as `candidates` gives them.
    """

    def __init__(self, model: nn.Module, chosen: Weights) -> None:
        super().__init__()
        self.weights = dict(chosen)
        owners = Owners(model)
        self._owners = {
            name: [(module, its) for _, module, its in owners.of(stored(*owner))] for name, owner in chosen.items()
        }
        for number, name in enumerate(self.weights):
            first, last = self.weights[name]
            known = mask_of(first, last)
            before = torch.ones_like(stored(first, last), dtype=torch.bool) if known is None else known.kept.clone()
            for module, its in self._owners[name]:
                if mask_of(module, its) is None:
                    mask_parameter(module, its, before.clone())
            for mask in self.masks(name):
                mask.open = True
            self.register_buffer(f"before{number}", before)

    def masks(self, name: str) -> Iterator[Mask]:
        """The masks of a weight: one for each module that has it."""
        for module, its in self._owners[name]:
            mask = mask_of(module, its)
            assert mask is not None
            yield mask

    def kept(self, name: str) -> Tensor:
        """The mask of a weight now; True where it stays."""
        return next(self.masks(name)).kept

    def before(self, name: str) -> Tensor:
        """The mask of a weight before this training; what is False there never comes back."""
        found: Tensor = self.get_buffer(f"before{list(self.weights).index(name)}")
        return found

    @torch.no_grad()
    def move(self, name: str, kept: Tensor) -> None:
        """Set the mask of a weight."""
        for mask in self.masks(name):
            mask.kept.copy_(kept.to(mask.kept.device) & self.before(name))

    def close(self) -> None:
        for own in self._owners.values():
            for module, its in own:
                close_mask(module, its)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for number, name in enumerate(self.weights):
            destination[f"{prefix}kept{number}"] = self.kept(name)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        state = dict(state_dict)
        for number, name in enumerate(self.weights):
            self.move(name, state.pop(f"{prefix}kept{number}"))
        super()._load_from_state_dict(state, prefix, *rest)
