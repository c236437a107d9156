"""A network as a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from typing import Any

import torch
from torch import Tensor, nn

from lessen.core.data import Inputs, View, call, map_inputs
from lessen.core.errors import GraphError, LessenError, NetworkError
from lessen.core.seeds import derive
from lessen.core.settings import added, named_fields
from lessen.core.tree import judged, name_of_judged, parts
from lessen.data.transforms import as_view
from lessen.graph.cache import Cache
from lessen.graph.combine import Combine, Sum
from lessen.graph.nodes.node import WHOLE, Node, takes_gradient
from lessen.graph.nodes.reads import Read, as_reads, drawn_reads, several
from lessen.graph.nodes.unit import Making, Now, Recorded, Unit, seed_draws
from lessen.graph.teacher_file import ByIndex
from lessen.optim.optimizer import Optimizer
from lessen.optim.schedule import Schedule
from lessen.sparsify.contract import Sparsify
from lessen.surgery.taps import Tap


@named_fields
class Network(Node):
    """A network that learns, or that is frozen: in eval mode, without gradient, whatever wraps it.

    Args:
        name: What edges call it.
        module: The network. A learning one is changed in place.
        learns: Whether its weights move.
        view: What it sees of a batch. None: what the data says for training batches.
        optimizer: How it moves, with the bridges and objectives of the edges that arrive. None: as the stage says.
        schedule: Of its learning rate. None: as the stage says.
        combine: What it does with several losses that arrive.
        cache: Keep what a frozen node gives on disk. None: compute it each time.
        sparsify: How its weights become sparse while it learns. None: as the stage says.
        reads: What it is called with: `From` another node, one `Input` of several, or several of these as positional
            arguments. None: the inputs of the batch.
    """

    name: str
    module: nn.Module
    learns: bool
    view: View | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    combine: Combine = field(default_factory=Sum)
    cache: Cache | None = None
    sparsify: Sparsify | None = None
    reads: Read | Sequence[Read] | None = added()

    @property
    def takes_batch(self) -> bool:
        return self.reads is None

    @property
    def made_of(self) -> Sequence[str]:
        return [name for read in as_reads(self.reads) for name in read.nodes]

    @property
    def learns_with(self) -> Sequence[str]:
        return [name for read in as_reads(self.reads) for name in read.moves]

    def reads_batch(self, nodes: Mapping[str, Node]) -> bool:
        return self.reads is None or any(not read.nodes for read in as_reads(self.reads))

    def taps_in(self, name: str) -> Sequence[Tap]:
        return [tap for read in as_reads(self.reads) for tap in read.taps_in(name)]

    @property
    def network(self) -> nn.Module:
        return self.module

    @property
    def parts(self) -> Sequence[nn.Module]:
        return (self.module, self.combine) if isinstance(self.combine, nn.Module) else (self.module,)

    def can_learn(self) -> bool:
        return self.learns

    def check(self, nodes: Mapping[str, Node]) -> None:
        if self.learns and self.cache is not None:
            raise GraphError(
                f"The node {self.name!r} learns, so its outputs cannot be cached. Only frozen nodes have a cache."
            )
        reads = as_reads(self.reads)
        for read in reads:
            read.check(self.name, nodes)
        if reads and isinstance(self.module, ByIndex):
            raise GraphError(
                f"The outputs of {self.name!r} come from a file, so it reads no {reads[0]}. Leave reads out."
            )
        if reads and self.cache is not None:
            raise GraphError(f"The node {self.name!r} reads {reads[0]}, so it cannot be cached. Leave the cache out.")
        fed = len(reads) == 1 and all(nodes[name].gives_batch for name in self.made_of)
        if self.made_of and self.view is not None and not fed:
            raise GraphError(
                f"The node {self.name!r} reads {self.made_of[0]!r}, so it has no view of the batch. Give the view to "
                f"{self.made_of[0]!r}."
            )

    def unit(self, making: Making) -> Unit:
        return NetworkUnit(
            self, making, self.module, view=self.view, combine=self.combine, cache=self.cache, reads=self.reads
        )

    def drawn(self, short: Any) -> dict[str, Any]:
        return drawn_reads(as_reads(self.reads))


class NetworkUnit(Recorded):
    """A network: called once a batch, with a recorder for its inner taps. `change` is what is done to its inputs.

    Args:
        node: The node.
        making: What of it is read, and what it sees.
        module: The network.
        view: What it sees of a batch. None: what the data says for training batches.
        combine: What it does with several losses.
        cache: How what it gives is kept.
        reads: What it is called with; None: the inputs of the batch.
    """

    kind = "network"
    change: Callable[[Inputs], Inputs] | None = None

    def __init__(
        self,
        node: Node,
        making: Making,
        module: nn.Module,
        *,
        view: View | None,
        combine: Combine | None = None,
        cache: Cache | None = None,
        reads: Read | Sequence[Read] | None = None,
    ) -> None:
        self.name = node.name
        self.output = making.output
        # A network that learns has buffers that move with every batch.
        self.learns = self.always = self.seeds = node.can_learn()
        self.taps = making.taps
        self.reads = as_reads(reads)
        read = [making.nodes[name] for one in self.reads for name in one.nodes]
        # With a batch of other data it is called as with that of the stage, through a view.
        fed = read[0] if len(self.reads) == len(read) == 1 and read[0].gives_batch else None
        self.fed = None if fed is None else fed.name
        self.passes = any(takes_gradient(name, making.nodes) for name in node.learns_with)
        self.on_path = {tap for other in making.nodes.values() for tap in other.gradients_in(self.name)}
        self.stream = derive(0, "stream", self.name)
        self.module = self.network = module
        self.cache = cache
        if combine is not None:
            self.combine = combine
        own = as_view(view)
        self.views = making.views
        if fed is not None:
            self.view = own or as_view(getattr(fed, "augment", None))
        else:
            self.view = None if read else own or self.views.augment
        self.view_key = self.views.key(self.view)
        # A random view is for training; a fixed one is what the node is able to see at all.
        self.view_outside = own if own is not None and own.draws == 0 else None

    def make_ready(self, now: Now, device: torch.device, seed: int) -> None:
        if self.cache is not None and any(tap.side == "state" for tap in self.taps):
            raise GraphError(
                f"The node {self.name!r} is tapped for the moments of a batch, which a cache of single examples does "
                "not have. Leave the cache out."
            )
        if self.cache is not None and self.view is not None and self.view.draws > 0:
            raise GraphError(
                f"The node {self.name!r} sees the random view {self.view!r}, so its outputs differ in every epoch and "
                "cannot be cached. Give the node a fixed view, as AsTheyAre(), leave the augmentation out, or leave "
                "the cache out."
            )
        before = now.training
        # The shapes behind the view of a training batch are what the edges will see.
        now.training = True
        try:
            self.record([tap for tap in self.taps if tap != WHOLE], lambda: self._call(now))
        except LessenError:
            raise
        except Exception as error:
            raise NetworkError(
                f"The network of the node {self.name!r} cannot be called with the inputs of the data: "
                f"{type(error).__name__}: {error}"
            ) from error
        finally:
            now.training = before
        values = now.values[self.name]
        self.shapes = {tap: tuple(values[tap].shape[1:]) for tap in self.taps if isinstance(values.get(tap), Tensor)}

    def compute(self, now: Now) -> None:
        if self.cached is not None and now.training:
            now.values[self.name] = self.cached(now.batch.index)
        elif self.learns:
            seed_draws(now.draw + self.stream, now.batch.index.device)
            self._call(now)
        elif self.passes or self.on_path:
            with still(self.module):
                self._call(now)
        else:
            with torch.no_grad():
                self._call(now)

    def set_mode(self) -> None:
        if not self.learns:
            self.module.eval()

    def _call(self, now: Now) -> None:
        view = self.view if now.training else self.view_outside
        if not self.reads or self.fed is not None:
            inputs = self.views.look(view, self.view_key, now, of=self.fed)
        else:
            inputs = self._read(now, view)
        if self.change is not None:
            inputs = self.change(inputs)
        if isinstance(self.module, ByIndex):
            now.values[self.name] = self._whole(self.module.answers(now.batch.index, training=now.training))
        elif self.on_path:
            with torch.enable_grad():
                given = map_inputs(inputs, _open)
                now.values[self.name] = self.recorded(lambda: call(self.module, given), self._whole)
        else:
            now.values[self.name] = self.recorded(lambda: call(self.module, inputs), self._whole)

    def _read(self, now: Now, view: View | None) -> Inputs:
        """What it reads in place of a batch."""

        def look(name: str | int | None) -> Inputs:
            return self.views.look(view, self.view_key, now, name)

        given = [read.value(now, look) for read in self.reads]
        return given[0] if len(given) == 1 else several(given, self.name)

    def _whole(self, returned: Any) -> dict[Tap, Any]:
        """The output that counts; nothing where several come, none is meant, and no edge reads the whole."""
        if self.output is None and WHOLE not in self.taps and name_of_judged(parts(returned)) is None:
            return {}
        try:
            return {WHOLE: judged(returned, self.output)}
        except NetworkError as error:
            raise NetworkError(f"The network of the node {self.name!r}: {error}") from error


def _open(value: Tensor) -> Tensor:
    """The same value, open to a gradient where it can be."""
    return value if value.requires_grad or not value.is_floating_point() else value.detach().requires_grad_()


@contextmanager
def still(module: nn.Module) -> Iterator[None]:
    """While a frozen network passes gradient on to what it reads: its own weights get none."""
    moved = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in moved:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moved:
            parameter.requires_grad_(True)
