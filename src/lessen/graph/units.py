"""Units: how each kind of node is computed for one batch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lessen.core.data import IGNORED, Batch, Inputs, View, call
from lessen.core.errors import DataError, GraphError, LessenError, NetworkError, SettingError, ShapeError
from lessen.core.seeds import derive, seeded, uniforms
from lessen.core.settings import encode
from lessen.core.tree import judged, name_of_judged, parts
from lessen.data.transforms import as_view
from lessen.graph.combine import Combine, Sum
from lessen.graph.node import Branch, Ensemble, Labels, Network, Snapshot
from lessen.graph.teacher_file import ByIndex
from lessen.surgery.copying import copy_network
from lessen.surgery.taps import Recorder, Tap, tensor_of

WHOLE = Tap()


@dataclass(eq=False)
class Now:
    """One forward pass: the batch, and the values of the nodes computed so far, by name and tap.

    `written` are the examples that a learning network wrote, shape (N,); the labels' node is silent about them.
    """

    batch: Batch
    training: bool
    draw: int = 0
    view_seed: int = 0
    written: Tensor | None = None
    values: dict[str, dict[Tap, Any]] = field(default_factory=dict)
    seen: dict[str, Inputs] = field(default_factory=dict)


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

    def look(self, view: View | None, key: str, now: Now) -> Inputs:
        """The inputs through a view, computed once for each batch."""
        if view is None:
            return now.batch.inputs
        if key not in now.seen:
            inputs = now.batch.inputs
            if not isinstance(inputs, Tensor):
                raise DataError(
                    f"A view needs inputs that are one tensor, but the data gives a "
                    f"{type(inputs).__name__}. Leave the view out."
                )
            draws_NK = uniforms(now.batch.index, view.draws, seed=now.view_seed)
            now.seen[key] = view(inputs, draws_NK.to(inputs.device))
        return now.seen[key]


class Unit:
    """A node that is ready: `make_ready` looks at one batch, `compute` is called for every batch."""

    kind: ClassVar[str]
    module: nn.Module | None = None
    combine: Combine = Sum()
    learns: bool = False

    def to(self, device: torch.device) -> None:
        """Move what is computed to a device."""
        if self.module is not None:
            self.module.to(device)

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        """Compute once, in eval mode, and learn from it what there is to know."""
        del device, seed
        self.compute(now)

    def compute(self, now: Now) -> None:
        """Write the values of the taps into `now.values`."""
        raise NotImplementedError

    def forget(self) -> None:
        """Let go of activations."""

    def close(self) -> None:
        """Take hooks away."""


class LabelsUnit(Unit):
    """The labels of the batch."""

    kind = "labels"

    def __init__(self, node: Labels) -> None:
        self.name = node.name

    def compute(self, now: Now) -> None:
        labels = now.batch.labels
        if now.written is not None and labels is not None:
            labels = labels.masked_fill(now.written[:, None], IGNORED)
        now.values[self.name] = {WHOLE: labels}


class NetworkUnit(Unit):
    """A network, or a snapshot of one: called once a batch, with a recorder for its inner taps."""

    kind = "network"
    module: nn.Module

    def __init__(
        self, node: Network | Snapshot, of: Network, taps: list[Tap], views: Views, output: str | None = None
    ) -> None:
        self.name = node.name
        self.output = output
        self.node = node
        self.learns = isinstance(node, Network) and node.learns
        self.taps = taps
        self.inner = [tap for tap in taps if tap != WHOLE]
        self.original = of.module
        self.stream = derive(0, "stream", self.name)
        self.module = copy_network(of.module) if isinstance(node, Snapshot) else of.module
        if isinstance(node, Snapshot):
            self.module.requires_grad_(False)
        if isinstance(node, Network):
            self.combine = node.combine
        own = as_view(node.view or of.view)
        self.view = own or views.augment
        self.view_key = views.key(self.view)
        # A random view is for training; a fixed one is what the node is able to see at all.
        self.view_outside = own if own is not None and own.draws == 0 else None
        self.views = views
        self.cached: Callable[[Tensor], dict[Tap, Any]] | None = None
        self.recorder: Recorder | None = None
        self.shapes: dict[Tap, tuple[int, ...]] = {}

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        cached = isinstance(self.node, Network) and self.node.cache is not None
        if cached and self.view is not None and self.view.draws > 0:
            raise GraphError(
                f"The node {self.name!r} sees the random view {self.view!r}, so its outputs differ in every epoch and "
                "cannot be cached. Give the node a fixed view, as AsTheyAre(), leave the augmentation out, or leave "
                "the cache out."
            )
        if self.inner:
            self.recorder = Recorder(self.module, self.inner)
        before = now.training
        # The shapes behind the view of a training batch are what the edges will see.
        now.training = True
        try:
            self._call(now)
        except LessenError:
            raise
        except Exception as error:
            raise NetworkError(
                f"The network of the node {self.name!r} cannot be called with the inputs of the data: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            now.training = before
        if self.recorder is not None:
            self.recorder.check()
            if written := self.recorder.written_over():
                self.recorder.copies |= written
                self._call(now)
        values = now.values[self.name]
        self.shapes = {tap: tuple(values[tap].shape[1:]) for tap in self.taps if isinstance(values.get(tap), Tensor)}

    def compute(self, now: Now) -> None:
        if self.cached is not None and now.training:
            now.values[self.name] = self.cached(now.batch.index)
        elif self.learns:
            seed_draws(now.draw + self.stream, now.batch.index.device)
            self._call(now)
        else:
            with torch.no_grad():
                self._call(now)

    def _call(self, now: Now) -> None:
        inputs = self.views.look(self.view if now.training else self.view_outside, self.view_key, now)
        recorder = self.recorder
        if isinstance(self.module, ByIndex):
            now.values[self.name] = self._whole(self.module.answers(now.batch.index, training=now.training))
            return
        if recorder is None:
            now.values[self.name] = self._whole(call(self.module, inputs))
            return
        recorder.begin()
        returned = call(self.module, inputs)
        recorder.end()
        recorder.seen |= self._whole(returned)
        now.values[self.name] = recorder.seen

    def _whole(self, returned: Any) -> dict[Tap, Tensor]:
        """The output that counts; nothing where several come, none is meant, and no edge reads the whole."""
        if self.output is None and WHOLE not in self.taps and name_of_judged(parts(returned)) is None:
            return {}
        try:
            return {WHOLE: judged(returned, self.output)}
        except NetworkError as error:
            raise NetworkError(f"The network of the node {self.name!r}: {error}") from error

    def forget(self) -> None:
        if self.recorder is not None:
            self.recorder.forget()

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


class BranchUnit(Unit):
    """A head on a tap of a network."""

    kind = "head"
    learns = True
    module: nn.Module

    def __init__(self, node: Branch, taps: list[Tap]) -> None:
        self.name = node.name
        self.of = node.of
        self.tap = node.tap
        self.head = node.head
        self.combine = node.combine
        self.inner = [tap for tap in taps if tap != WHOLE]
        self.recorder: Recorder | None = None

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        value = tensor_of(now.values[self.of][self.tap])
        head = self.head
        if not isinstance(head, nn.Module):
            with seeded(seed, "head", self.name):
                head = head.build(value.shape, now.values[self.of][WHOLE].shape).eval()
        self.module = head.to(device)
        if self.inner:
            self.recorder = Recorder(self.module, self.inner)
        try:
            self.compute(now)
        except Exception as error:
            shape = tuple(value.shape)
            raise ShapeError(
                f"The head of the branch {self.name!r} does not fit its tap {str(self.tap)!r} of "
                f"{self.of!r}, which gives "
                f"shape {shape}: {error}"
            ) from error
        if self.recorder is not None:
            self.recorder.check()
            if written := self.recorder.written_over():
                self.recorder.copies |= written
                self.compute(now)

    def compute(self, now: Now) -> None:
        value = tensor_of(now.values[self.of][self.tap])
        recorder = self.recorder
        if recorder is None:
            now.values[self.name] = {WHOLE: tensor_of(self.module(value))}
            return
        recorder.begin()
        output = self.module(value)
        recorder.end()
        recorder.seen[WHOLE] = tensor_of(output)
        now.values[self.name] = recorder.seen

    def forget(self) -> None:
        if self.recorder is not None:
            self.recorder.forget()

    def close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()


class EnsembleUnit(Unit):
    """One output made of several; unless asked, its members are cut off, and only a gate of its own learns."""

    kind = "ensemble"

    def __init__(self, node: Ensemble) -> None:
        self.name = node.name
        self.node = node
        self.of = tuple(node.of)

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        shapes = [now.values[name][WHOLE].shape for name in self.of]
        with seeded(seed, "ensemble", self.name):
            self.module = self.node.combine.build(shapes).to(device).eval()
        self.compute(now)

    def compute(self, now: Now) -> None:
        assert self.module is not None
        outputs = [now.values[name][WHOLE] for name in self.of]
        if not self.node.to_members:
            outputs = [output.detach() for output in outputs]
        now.values[self.name] = {WHOLE: self.module(outputs)}


def seed_draws(draw: int, device: torch.device) -> None:
    """Seed what is drawn from torch's global generators from here on."""
    seed = draw & (2**63 - 1)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)
