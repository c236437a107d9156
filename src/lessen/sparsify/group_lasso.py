"""Group lasso: while a network learns, whole channels shrink, and unnecessary ones reach zero.

Yuan & Lin, Model selection and estimation in regression with grouped variables, JRSS B 68, 2006, with the proximal step
of Parikh & Boyd, Proximal algorithms, 2014, section 6.5.4; on the channels of networks: Wen et al., Learning structured
sparsity in deep neural networks, NeurIPS 2016, arXiv:1608.03665.

Shapes: G indices of a coupled group.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core.card import Card
from lessen.core.data import Inputs, map_inputs
from lessen.core.errors import PlanError
from lessen.core.settings import settings
from lessen.core.where import Where, check_where, matches
from lessen.sparsify.contract import Sparsifier
from lessen.surgery.coupling import Coupling, analyse, owners
from lessen.surgery.modules import get_tensor

Rows = list[tuple[str, int, Tensor]]
"""(name of a parameter, one of its axes, which index of the group each of its indices goes with, or -1)."""


def shrink_factors(norms_G: Tensor, threshold: Tensor | float) -> Tensor:
    """What the proximal step of threshold * norm multiplies each vector by: max(0, 1 - threshold / norm), shape (G,).

    >>> shrink_factors(torch.tensor([4.0, 1.0, 0.0]), 2.0)
    tensor([0.5000, 0.0000, 0.0000])
    """
    return (1 - threshold / norms_G.clamp_min(torch.finfo(norms_G.dtype).tiny)).clamp_min(0)


@settings
class GroupLasso:
    """Add the sum over channels of strength * sqrt(size) * norm to the loss, by a proximal step after the optimizer's.

    A channel's group holds all weights that compute it, in all coupled layers: filters, biases, and the factors and
    shifts of normalisations. If all of them are zero, the channel is zero, and `PruneChannels` removes it without
    changing the outputs.

    Args:
        strength: Strength of the penalty: each step reduces every norm by learning rate * strength * sqrt(size).
        where: Only channels that a matching module computes; None for all.
        exclude: No channels that a matching module computes.
    """

    strength: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-3
    where: Where = None
    exclude: Where = None

    shrinks: ClassVar[bool] = True
    """Zeros are made of the weights themselves, step by step, and of no mask."""

    card: ClassVar[Card] = Card(
        row="operations / sparse training",
        paper="arXiv:1608.03665",
        says="Training penalises the norm of each channel; channels that are not worth their penalty become zero as a "
        "whole.",
        costs="One pass over the weights per step. Nothing is smaller until PruneChannels has removed the zeros.",
        fails_when="The strength is wrong: if it is too small nothing reaches zero, if too large everything does.",
        differs="A proximal step instead of a subgradient, so that zeros are exact. Only the weights that compute a "
        "channel are in its group, because every weight that reads one channel computes another.",
    )

    def check(self, model: nn.Module, /) -> None:
        """Check that the settings apply to this network."""
        check_where(model, where=self.where, exclude=self.exclude)
        if not any(self._wants(path, module) for path, module in model.named_modules()):
            raise PlanError(f"GroupLasso finds nothing in this network: where={self.where!r} matches no module.")

    def start(self, model: nn.Module, /) -> Sparsifier:
        return _Shrinking(self, model)

    def wants(self, model: nn.Module, tensors: list[str]) -> bool:
        """Whether channels that are made by these parameters are meant."""
        modules = dict(model.named_modules(remove_duplicate=False))
        paths = [path for name in tensors if (path := name.rpartition(".")[0]) in modules]
        wanted = any(matches(self.where, path, modules[path]) for path in paths)
        return wanted and not any(
            self.exclude is not None and matches(self.exclude, path, modules[path]) for path in paths
        )

    def _wants(self, path: str, module: nn.Module) -> bool:
        return matches(self.where, path, module)


def made_by(model: nn.Module, coupling: Coupling) -> dict[str, Rows]:
    """For each group of channels the parameters that make it, by the name of the group."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {
        name: [
            (member.tensor, member.dim, owners(member.layout, coupling.sizes, name))
            for member in group.members
            if member.tensor in parameters and not member.consumes
        ]
        for name, group in coupling.groups.items()
    }


@torch.no_grad()
def shrink(model: nn.Module, rows: Rows, size: int, threshold: float) -> None:
    """The proximal step on one group, in place; `threshold` is multiplied by the root of the numbers of a channel."""
    squares, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    parts = []
    for name, dim, owner in rows:
        tensor = get_tensor(model, name)
        others = [axis for axis in range(tensor.ndim) if axis != dim]
        along = tensor.detach().double().square()
        along = (along.sum(others) if others else along).cpu()
        has = owner >= 0
        squares.index_add_(0, owner[has], along[has])
        count.index_add_(0, owner[has], torch.full((int(has.sum()),), tensor.numel() / len(owner), dtype=torch.float64))
        parts.append((tensor, dim, owner))
    factors = shrink_factors(squares.sqrt(), threshold * count.sqrt())
    for tensor, dim, owner in parts:
        by_index = torch.where(owner >= 0, factors[owner.clamp_min(0)], 1.0)
        shape = [-1 if axis == dim else 1 for axis in range(tensor.ndim)]
        tensor.mul_(by_index.to(tensor.device, tensor.dtype).view(shape))


class _Shrinking(Sparsifier):
    """`GroupLasso` on one network. What is coupled is found on the first inputs that the network is given."""

    def __init__(self, settings: GroupLasso, model: nn.Module) -> None:
        super().__init__()
        self.settings = settings
        self._network = [model]  # in a list, so that it is no part of this module
        self._groups: dict[str, tuple[Rows, int]] | None = None
        self._inputs: Inputs | None = None
        self._hook: Any = model.register_forward_pre_hook(self._look, with_kwargs=True)

    def _look(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        if self._inputs is None:
            given: Any = named if named and not args else args[0] if len(args) == 1 else args
            self._inputs = map_inputs(given, lambda value: value.detach()[:2].clone())

    def after_step(self, progress: float, rate: float) -> None:
        """Shrink every channel by the learning rate times the strength."""
        if self.settings.strength == 0:
            return
        model = self._network[0]
        if self._groups is None:
            assert self._inputs is not None, "the network was never called before the first step"
            self.close()
            coupling = analyse(model, self._inputs)
            self._groups = {
                name: (rows, coupling.sizes[name])
                for name, rows in made_by(model, coupling).items()
                if rows and self.settings.wants(model, [row[0] for row in rows])
            }
        for rows, size in self._groups.values():
            shrink(model, rows, size, rate * self.settings.strength)

    def settled(self, progress: float) -> bool:
        """Channels shrink until the end, so the last epoch is the one that is kept."""
        return progress >= 1

    def close(self) -> None:
        self._hook.remove()


def zero_channels(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    """For each group of channels which of them nothing makes any more, bool: what makes them is zero."""
    found = {}
    coupling = analyse(model, inputs)
    for name, rows in made_by(model, coupling).items():
        zero = torch.ones(coupling.sizes[name], dtype=torch.bool)
        for tensor, dim, owner in rows:
            value = get_tensor(model, tensor).detach().cpu()
            any_there = value.movedim(dim, 0).flatten(1).ne(0).any(1) if value.ndim > 1 else value.ne(0)
            zero[owner[any_there & (owner >= 0)]] = False
        found[name] = zero
    return found
