"""What units of a network are given and what they give, unit after unit, on all calibration examples.

A network that changes, and one that only shows what it computes, each run once: a pass waits at every unit in turn
(`lessen.operations.parts.walk`). Slopes come from passes forth and back, which cannot wait: one for as many units as
fit.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from lessen.core.contracts import Context
from lessen.core.data import Inputs, call
from lessen.core.errors import PlanError
from lessen.operations.parts.walk import Walk, Walker
from lessen.operations.quantize.units import ReconstructionUnit, clamped
from lessen.surgery.calls import floating
from lessen.surgery.modules import get_module

_LARGEST = 2**30
"""Bytes that what units give, and the slopes there, may take at once."""

_BEFORE, _BEHIND = "before", "behind"


class Visits(Walk["_Visit"]):
    """Takes the passes from unit to unit; to be used in a `with` statement.

    Args:
        model: What runs, in eval mode.
        units: Which.
        context: Calibration batches.
        changing: Whether the weights of each unit change, in place, while the passes wait before it.
    """

    def __init__(
        self, model: nn.Module, units: Sequence[ReconstructionUnit], context: Context, *, changing: bool
    ) -> None:
        weights = [name for unit in units for name in unit.weights] if changing else []
        super().__init__((batch.to(context.device).inputs for batch in context.calibration), weights)
        self._model = model
        self._hooks = [hook for unit in units for hook in self._hooks_on(unit.path)]

    def prepare(self) -> nn.Module:
        return self._model

    def watch(self, model: nn.Module, inputs: Inputs) -> _Visit:
        return _Visit(self, model, inputs)

    def arguments(self, unit: ReconstructionUnit) -> Any:
        """What a unit is given: positional arguments and those by keyword."""
        return joined(self._seen(_BEFORE, unit))

    def outputs(self, unit: ReconstructionUnit) -> list[Tensor]:
        """What a unit gives, tensor by tensor, as it is behind the clip that follows."""
        return _cat([clamped(leaf, unit.clip) for leaf in floating(seen)] for seen in self._seen(_BEHIND, unit))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _seen(self, side: str, unit: ReconstructionUnit) -> list[Any]:
        walkers = self.go((side, unit.path))
        missing = [number for number, walker in enumerate(walkers) if walker.turns.done]
        if missing:
            raise PlanError(
                f"{unit.path} runs on the example inputs, but not in calibration batch {missing[0]}. Leave it out, or "
                "give batches on which all of the network runs."
            )
        return [walker.seen for walker in walkers]

    def _hooks_on(self, path: str) -> list[Any]:
        module = get_module(self._model, path)

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self._pass(_BEFORE, path, (args, kwargs))

        def behind(module: nn.Module, args: Any, output: Any) -> None:
            self._pass(_BEHIND, path, output)

        return [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(behind),
        ]

    def _pass(self, side: str, path: str, value: Any) -> None:
        here = threading.get_ident()
        for walker in self.walkers:
            if walker.thread == here:
                walker.meet((side, path), value)


class _Visit(Walker):
    """One pass, which waits before or behind a unit."""

    seen: Any = None

    def meet(self, place: tuple[str, str], value: Any) -> None:
        first = place not in self.past
        self.past.add(place)
        if first and place == self.walk.wanted:
            self.seen = value
            self.halt()
            self.seen = None


def slopes(
    model: nn.Module, units: Sequence[ReconstructionUnit], context: Context
) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """What each unit gives and the squared gradient of the loss there, tensor by tensor, unit after unit."""
    sizes = _sizes(model, units, context)
    group: list[ReconstructionUnit] = []
    for unit in units:
        if group and sum(sizes[each.path] for each in (*group, unit)) > _LARGEST:
            yield from _slopes(model, group, context)
            group = []
        group.append(unit)
    yield from _slopes(model, group, context)


def _slopes(
    model: nn.Module, units: Sequence[ReconstructionUnit], context: Context
) -> list[tuple[list[Tensor], list[Tensor]]]:
    outputs: list[list[list[Tensor]]] = [[] for _ in units]
    squares: list[list[list[Tensor]]] = [[] for _ in units]
    for batch in context.calibration:
        here = batch.to(context.device)
        assert here.labels is not None
        with torch.enable_grad():
            said, seen = _outputs(model, units, here.inputs)
        leaves = [list(floating(seen[unit.path])) for unit in units]
        # What a unit gives may be a part of what another one gives: the same tensor is asked for once.
        distinct = list({id(leaf): leaf for each in leaves for leaf in each}.values())
        found = torch.autograd.grad(context.losses(said, here.labels).sum(), distinct, allow_unused=True)
        slope_of = {id(leaf): slope for leaf, slope in zip(distinct, found, strict=True)}
        for number, unit in enumerate(units):
            outputs[number].append([clamped(leaf.detach(), unit.clip) for leaf in leaves[number]])
            squares[number].append(
                [
                    torch.zeros_like(leaf) if (slope := slope_of[id(leaf)]) is None else slope.square()
                    for leaf in leaves[number]
                ]
            )
    return [(_cat(given), _cat(felt)) for given, felt in zip(outputs, squares, strict=True)]


def _cat(batches: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Tensor by tensor, those of all batches along their first axis."""
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def _outputs(model: nn.Module, units: Sequence[ReconstructionUnit], inputs: Inputs) -> tuple[Any, dict[str, Any]]:
    """What a network gives, and what its units give in their first call."""
    seen: dict[str, Any] = {}

    def hook_for(path: str) -> Any:
        def look(module: nn.Module, args: Any, output: Any) -> Any:
            seen.setdefault(path, output)
            # A copy goes on, so that what writes in place does not reach what was seen.
            return tree_map(lambda value: value.clone() if isinstance(value, Tensor) else value, output)

        return get_module(model, path).register_forward_hook(look)

    hooks = [hook_for(unit.path) for unit in units]
    try:
        return call(model, inputs), seen
    finally:
        for hook in hooks:
            hook.remove()


def _sizes(model: nn.Module, units: Sequence[ReconstructionUnit], context: Context) -> dict[str, int]:
    """Bytes of what each unit gives and of the slopes there, on all calibration batches, from those of the first."""
    with torch.no_grad():
        _, seen = _outputs(model, units, context.calibration[0].to(context.device).inputs)
    count = 2 * len(context.calibration)
    return {path: count * sum(leaf.nbytes for leaf in floating(given)) for path, given in seen.items()}


def joined(parts: Sequence[Any]) -> Any:
    """The arguments of several batches as those of one: tensors along their first axis."""
    sizes = [next((len(leaf) for leaf in tree_leaves(part) if isinstance(leaf, Tensor)), 0) for part in parts]

    def one(*leaves: Any) -> Any:
        along_examples = all(
            isinstance(leaf, Tensor) and leaf.ndim > 0 and len(leaf) == size
            for leaf, size in zip(leaves, sizes, strict=True)
        )
        return torch.cat(leaves) if along_examples else leaves[0]

    return tree_map(one, *parts)
