"""Depth: blocks that hardly change their input are removed.

Men et al., ShortGPT: Layers in large language models are more redundant than you expect, 2024, arXiv:2403.03853.

Shapes: N examples, C channels, P positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from lessen.core import Batch, Card, Context, Where, check_where, matches, settings
from lessen.core.data import Inputs, call, map_inputs
from lessen.core.errors import NetworkError, PlanError, did_you_mean
from lessen.core.tree import parts
from lessen.functional.channels import by_channel, unit
from lessen.surgery.copying import copy_network
from lessen.surgery.modules import get_module, set_modules
from lessen.surgery.plain import plain, plain_copy


def block_influence(inputs: Tensor, outputs: Tensor) -> Tensor:
    """1 - cos(x_in, x_out) over channels, averaged over positions, shape (N,): 0 for a block that does nothing.

    Maps (N, C, H, W), tokens (N, P, C) or vectors (N, C). Where both are zero nothing changes, so the influence is 0.

    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> block_influence(x, torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([0., 1.])
    """
    before_NCP, after_NCP = by_channel(inputs), by_channel(outputs)
    cosine_NP = (unit(before_NCP, 1) * unit(after_NCP, 1)).sum(1)
    nothing_NP = (before_NCP == 0).all(1) & (after_NCP == 0).all(1)
    return (1 - cosine_NP.masked_fill(nothing_NP, 1.0)).mean(1)


class Skip(nn.Module):
    """Replaces a removed block: returns its first argument, whatever the others are."""

    def forward(self, x: Tensor, *others: Any, **named: Any) -> Tensor:
        """The input as it is."""
        del others, named
        return x


@settings
class RemovedBlocks:
    """The plan of `RemoveBlocks`.

    Args:
        removed: The removed blocks, by name.
        influence: Of each block that could be removed, for people.
        left: Blocks that cannot be removed, and why.
    """

    removed: list[str]
    influence: dict[str, float] = Field(default_factory=dict)
    left: dict[str, str] = Field(default_factory=dict)

    def apply(self, model: nn.Module, *, values: bool = True) -> nn.Module:
        """A copy of the network with `Skip` in the place of each removed block; names of all others stay.

        Raises:
            PlanError: a block is missing.
        """
        del values
        network = plain_copy(model)
        try:
            set_modules(network, {path: Skip().train(get_module(network, path).training) for path in self.removed})
        except NetworkError as error:
            raise PlanError(f"The plan does not belong to this network. {error}") from error
        return network

    def describe(self) -> list[dict[str, Any]]:
        """One row for each block, with its influence."""
        rows: list[dict[str, Any]] = []
        for path, influence in self.influence.items():
            gone = path in self.removed
            after = "removed" if gone else "kept"
            rows.append(
                {
                    "module": path,
                    "edit": "remove block" if gone else "left alone",
                    "before": f"influence {influence:.4f}",
                    "after": after,
                }
            )
        rows += [{"module": path, "edit": "left alone", "before": why, "after": ""} for path, why in self.left.items()]
        return rows


@settings
class RemoveBlocks:
    """Remove blocks that keep the shape of their input, those with the least influence first.

    Blocks are the elements of an `nn.Sequential` or `nn.ModuleList` that contain modules themselves. A container of
    several equal elements is a stage, and its elements are the blocks; modules inside a block belong to it.

    Args:
        keep: Share of these blocks to keep, rounded to the nearest integer number of blocks.
        where: Which blocks; None for all that can be removed.
        exclude: Which of these to keep in any case; None for none.
    """

    keep: Annotated[float, Field(ge=0, le=1)] = 0.5
    where: Where = None
    exclude: Where = None

    card: ClassVar[Card] = Card(
        row="operations / pruning",
        paper="arXiv:2403.03853",
        says="Removes blocks whose output points in nearly the same direction as their input.",
        costs="Accuracy, until the network is trained again. Time falls in proportion: whole layers are removed, and "
        "the others keep their shapes.",
        fails_when="Every block matters, as in networks of few blocks. Blocks that change the shape cannot be removed.",
        differs="Blocks are ranked once, as in the paper; for feature maps, the cosine is over channels at each "
        "position.",
    )

    @classmethod
    def neutral(cls) -> RemoveBlocks:
        """Every block stays."""
        return cls(keep=1.0)

    def plan(self, model: nn.Module, context: Context) -> RemovedBlocks:
        """Measure the influence of each block on the calibration examples, or on the example inputs without any.

        Raises:
            PlanError: no block can be removed.
        """
        model = plain(model, context.inputs)
        check_where(model, where=self.where, exclude=self.exclude)
        blocks = dict(_blocks(model))
        chosen = {path: block for path, block in blocks.items() if self._wants(path, block)}
        if self.keep == 1.0:
            return RemovedBlocks(removed=[])
        if not chosen:
            close = did_you_mean(str(self.where), blocks)
            by = "" if self.where is None else f" by where={self.where!r}"
            raise PlanError(f"No block is selected{by}: a block is an element of a Sequential or ModuleList; {close}")
        influence, left = influences(model, chosen, context)
        influence = {path: influence[path] for path in _no_stages(chosen, influence)}
        count = len(influence) - round(self.keep * len(influence))
        order = sorted(influence, key=lambda path: influence[path])
        removed, wrong = _removable(model, order, count, _on_device(model, context.inputs))
        left |= wrong
        if not influence or (count and not removed):
            path, why = next(iter(left.items()))
            raise PlanError(f"No block can be removed. The first, {path}: {why}.")
        stays = {path: value for path, value in influence.items() if path not in left}
        return RemovedBlocks(removed=sorted(removed, key=list(chosen).index), influence=stays, left=left)

    def _wants(self, path: str, block: nn.Module) -> bool:
        unwanted = self.exclude is not None and matches(self.exclude, path, block)
        return matches(self.where, path, block) and not unwanted


def influences(
    model: nn.Module, blocks: dict[str, nn.Module], context: Context
) -> tuple[dict[str, float], dict[str, str]]:
    """The mean influence of each block that keeps the shape, and why the others cannot be removed."""
    network = copy_network(model).eval().to(context.device)
    total: dict[str, float] = {}
    times: dict[str, int] = {}
    left: dict[str, str] = {}
    handles = []

    def watch(path: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            times[path] = times.get(path, 0) + 1
            given = args[0] if args else None
            if not isinstance(given, Tensor) or not isinstance(output, Tensor):
                left[path] = (
                    f"it gives a {type(output).__name__} for a {type(given).__name__}, not a tensor for a tensor"
                )
            elif given.shape != output.shape:
                left[path] = f"it turns {_shape(given)} into {_shape(output)}"
            elif given.ndim not in {2, 3, 4}:
                left[path] = f"its input has {given.ndim} axes, and the channel axis is not known"
            else:
                total[path] = total.get(path, 0.0) + float(block_influence(given, output).double().sum())

        return hook

    for path in blocks:
        handles.append(get_module(network, path).register_forward_hook(watch(path), with_kwargs=True))
    examples, passes = 0, 0
    with torch.no_grad():
        for batch in context.calibration or [_as_batch(context.inputs)]:
            call(network, batch.to(context.device).inputs)
            examples, passes = examples + len(batch), passes + 1
    for handle in handles:
        handle.remove()
    for path in blocks:
        if path not in left and times.get(path, 0) != passes:
            left[path] = f"it is called {times.get(path, 0) / passes:g} times per pass, not once"
    found = {path: total[path] / examples for path in blocks if path in total and path not in left}
    return found, left


def _blocks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Elements of sequences that are made of modules of their own and have parameters; outer ones first."""
    for path, holder in model.named_modules():
        if isinstance(holder, nn.Sequential | nn.ModuleList):
            for name, block in holder.named_children():
                if any(True for _ in block.children()) and any(True for _ in block.parameters()):
                    yield (f"{path}.{name}" if path else name), block


def _no_stages(blocks: dict[str, nn.Module], keeping: dict[str, float]) -> list[str]:
    """Of what keeps the shape, the blocks: not what holds several of one class, and not what is held by a block."""
    inside: dict[str, list[type]] = {}
    for path in keeping:
        for outer in _around(path):
            inside.setdefault(outer, []).append(type(blocks[path]))
    whole = dict.fromkeys(path for path in keeping if len(inside.get(path, [])) == len(set(inside.get(path, []))))
    return [path for path in whole if not any(outer in whole for outer in _around(path))]


def _around(path: str) -> Iterator[str]:
    """The paths of the modules that a module is in, without the network's."""
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts)))


def _removable(model: nn.Module, order: list[str], count: int, inputs: Inputs) -> tuple[list[str], dict[str, str]]:
    """The first `count` blocks in this order without which the network runs as before, and why others cannot go.

    As many as are still wanted are tried together, and half of them where that fails.
    """
    with torch.no_grad():
        before = call(copy_network(model).eval(), inputs)
    removed: list[str] = []
    left: dict[str, str] = {}
    tried = 0
    size = count
    while len(removed) < count and tried < len(order):
        some = order[tried : tried + min(size, count - len(removed))]
        wrong = _breaks(model, RemovedBlocks(removed=[*removed, *some]), inputs, before)
        if wrong is None:
            removed += some
        elif len(some) > 1:
            size = len(some) // 2
            continue
        else:
            left[some[0]] = wrong
        tried, size = tried + len(some), max(2 * len(some), 1)
    return removed, left


def _breaks(model: nn.Module, plan: RemovedBlocks, inputs: Inputs, before: Any) -> str | None:
    """Why the network does not run as before without these blocks, or None."""
    try:
        with torch.no_grad():
            after = call(plan.apply(model).eval(), inputs)
    except Exception as error:  # noqa: BLE001  (whatever the network's own code raises is the finding)
        return f"without it the network does not run: {type(error).__name__}: {str(error).strip()[:200]}"
    if {name: value.shape for name, value in parts(before).items()} != {n: v.shape for n, v in parts(after).items()}:
        return "without it the outputs have another shape"
    return None


def _as_batch(inputs: Inputs) -> Batch:
    first = (
        inputs if isinstance(inputs, Tensor) else next(iter(inputs.values() if isinstance(inputs, dict) else inputs))
    )
    return Batch(inputs, torch.arange(len(first)))


def _on_device(model: nn.Module, inputs: Inputs) -> Inputs:
    device = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    return map_inputs(inputs, lambda value: value.to(device))


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape[1:]))
