"""Units: how a node is computed for one batch. Each kind of node has its own, in its own file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lessen.core.data import Batch, Examples, Inputs, View
from lessen.core.errors import DataError, SettingError
from lessen.core.seeds import derive, uniforms
from lessen.core.settings import encode
from lessen.data.transforms import as_view
from lessen.graph.cache import Cache
from lessen.graph.combine import Combine, Sum
from lessen.graph.nodes.node import Node
from lessen.graph.nodes.reads import input_of
from lessen.surgery.taps import Recorder, Tap


@dataclass(eq=False)
class Now:
    """One forward pass: the batch, and the values of the nodes computed so far, by name and tap.

    `written` are the examples that a learning network wrote, shape (N,); the labels' node is silent about them.
    `others` are the batches of other data, by the name of their node.
    """

    batch: Batch
    training: bool
    draw: int = 0
    view_seed: int = 0
    written: Tensor | None = None
    values: dict[str, dict[Tap, Any]] = field(default_factory=dict)
    seen: dict[str, Inputs] = field(default_factory=dict)
    others: dict[str, Batch] = field(default_factory=dict)

    def batch_of(self, node: str | None) -> Batch:
        """The batch of a node of other data; None: that of the stage."""
        return self.batch if node is None else self.others[node]


class Views:
    """What networks see of a batch; nodes with equal views see the same, also where the view is random."""

    def __init__(self, augment: View | None) -> None:
        self.augment = as_view(augment)

    def key(self, view: View | None) -> str:
        """The identity of a view: its settings, or the object itself where it has none."""
        try:
            return json.dumps(encode(view), sort_keys=True)
        except SettingError:
            return f"{type(view).__qualname__} {id(view)}"

    def look(
        self, view: View | None, key: str, now: Now, name: str | int | None = None, of: str | None = None
    ) -> Inputs:
        """The inputs through a view, or the one of that name, computed once for each batch.

        Args:
            view: What is seen of them. None: all.
            key: Of the view.
            now: This pass.
            name: Of several inputs, which. None: all.
            of: The node of other data whose batch it is. None: that of the stage.
        """
        batch = now.batch if of is None else now.others[of]
        inputs = batch.inputs if name is None else input_of(batch.inputs, name)
        if view is None:
            return inputs
        key = key if name is None else f"{key} of {name!r}"
        key = key if of is None else f"{key} in {of}"
        if key not in now.seen:
            if not isinstance(inputs, Tensor):
                raise DataError(
                    f"A view needs inputs that are one tensor, but the data gives a "
                    f"{type(inputs).__name__}. Leave the view out."
                )
            seed = now.view_seed if of is None else derive(now.view_seed, of)
            draws_NK = uniforms(batch.index, view.draws, seed=seed)
            now.seen[key] = view(inputs, draws_NK.to(inputs.device))
        return now.seen[key]


@dataclass(frozen=True, eq=False)
class Making:
    """What a node may use to make its unit.

    Args:
        nodes: All nodes of the graph, by name.
        taps: What is read of this one.
        views: What networks see of a batch.
        output: Which part of a network's outputs is judged; None: the only one.
    """

    nodes: Mapping[str, Node]
    taps: list[Tap]
    views: Views
    output: str | None


class Unit:
    """A node that is ready: `make_ready` looks at one batch, `compute` is called for every batch.

    Attributes:
        kind: What logs and checkpoints call what learns here.
        name: Of the node.
        module: What is computed.
        network: The same, where it is a network (or a copy of one) and no head or gate.
        combine: What is done with several losses that arrive.
        learns: Whether it is judged on the validation split, because weights of it move.
        always: Whether it is computed for every batch, also where no edge needs it.
        draws: Whether it may draw random numbers from torch's global generators.
        seeds: Whether it seeds them itself.
        follows: Whether it moves a module of its own that no optimizer moves, at the moments below.
        taps: What is read of it.
        shapes: Of the values of the taps, without the axis of examples.
        view: What it sees of a training batch.
        cache: How what it gives is kept on disk; None: not at all.
        cached: Reads the values of the taps by the indices of the examples, where they are kept.
        examples: The other data that it is a batch of.
    """

    kind: ClassVar[str]
    draws: ClassVar[bool] = True
    name: str
    module: nn.Module | None = None
    network: nn.Module | None = None
    combine: Combine = Sum()
    learns: bool = False
    always: bool = False
    seeds: bool = False
    follows: bool = False
    taps: Sequence[Tap] = ()
    shapes: Mapping[Tap, tuple[int, ...]] = {}
    view: View | None = None
    cache: Cache | None = None
    cached: Callable[[Tensor], dict[Tap, Any]] | None = None
    examples: Examples | None = None

    def to(self, device: torch.device) -> None:
        """Move what is computed to a device."""
        if self.module is not None:
            self.module.to(device)

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        """Compute once, in eval mode, and learn from it what there is to know."""
        del device, seed
        self.compute(now)

    def write(self, now: Now) -> None:
        """Make the batch of this pass, or a part of it: for nodes that write."""

    def compute(self, now: Now) -> None:
        """Write the values of the taps into `now.values`."""
        raise NotImplementedError

    def set_mode(self) -> None:
        """Put what never learns into eval mode, after all that learns has been given its mode."""

    def before_step(self) -> None:
        """Just before the optimizers move."""

    def after_step(self) -> None:
        """Just after."""

    def after_epoch(self) -> None:
        """At the end of a pass over the data."""

    def forget(self) -> None:
        """Let go of activations."""

    def close(self) -> None:
        """Take hooks away."""


class Recorded(Unit):
    """A unit whose module is called with a recorder for its inner taps, if it has some.

    Attributes:
        on_path: Taps whose value must be the one that the module goes on with: a gradient is taken there.
    """

    module: nn.Module
    recorder: Recorder | None = None
    on_path: Collection[Tap] = ()

    def record(self, inner: list[Tap], call: Callable[[], None]) -> None:
        """Call once, and learn which taps are written over by later operations.

        Args:
            inner: The taps inside the module.
            call: Computes the module through `recorded`.
        """
        if inner:
            self.recorder = Recorder(self.module, inner, on_path=self.on_path)
        call()
        if self.recorder is not None:
            self.recorder.check()
            if written := self.recorder.written_over():
                self.recorder.copies |= written
                call()

    def recorded(self, call: Callable[[], Any], whole: Callable[[Any], dict[Tap, Any]]) -> dict[Tap, Any]:
        """The values of the taps: those inside, and what `whole` makes of what the module returns."""
        recorder = self.recorder
        if recorder is None:
            return whole(call())
        recorder.begin()
        returned = call()
        recorder.end()
        recorder.seen |= whole(returned)
        return recorder.seen

    def forget(self) -> None:
        if self.recorder is not None:
            self.recorder.forget()

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


def seed_draws(draw: int, device: torch.device) -> None:
    """Seed what is drawn from torch's global generators from here on."""
    seed = draw & (2**63 - 1)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
