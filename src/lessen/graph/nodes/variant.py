"""Another pass of a network as a node: the same weights, in another way, or with other inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lessen.core.data import View
from lessen.core.errors import GraphError, TapError
from lessen.core.settings import named_fields
from lessen.graph.nodes.network import NetworkUnit
from lessen.graph.nodes.node import Node, find, is_network
from lessen.graph.nodes.reads import Read, as_reads, drawn_reads
from lessen.graph.nodes.unit import Making, Now, Unit, seed_draws
from lessen.graph.teacher_file import ByIndex
from lessen.graph.way import Way, statistics_kept
from lessen.surgery.taps import Tap


@named_fields
class Variant(Node):
    """A network that runs once more with the same weights: in another way, through another view, or on other inputs.

    Edges that arrive here move the network. The other pass changes no running statistics of batch norms, and is not
    judged on the validation split.

    Args:
        name: What edges call it.
        of: The network node.
        way: What is different. None: only the view, or what it reads.
        view: What it sees of a batch. None: what the network sees.
        reads: What it is called with. None: what the network is called with.
    """

    name: str
    of: str
    way: Way | None = None
    view: View | None = None
    reads: Read | Sequence[Read] | None = None

    @property
    def made_of(self) -> Sequence[str]:
        return [self.of, *(name for read in as_reads(self.reads) for name in read.nodes)]

    @property
    def learns_with(self) -> Sequence[str]:
        return [self.of, *(name for read in as_reads(self.reads) for name in read.moves)]

    def values_from(self, nodes: Mapping[str, Node]) -> Sequence[str]:
        return [name for read in self._reads(nodes) for name in read.nodes]

    def reads_batch(self, nodes: Mapping[str, Node]) -> bool:
        reads = self._reads(nodes)
        return not reads or any(not read.nodes for read in reads)

    def moved_by(self, nodes: Mapping[str, Node]) -> str:
        return nodes[self.of].moved_by(nodes)

    def check(self, nodes: Mapping[str, Node]) -> None:
        network = find(self.of, nodes, f"the node {self.name!r}", is_network, "a network").network
        assert network is not None
        if isinstance(network, ByIndex):
            raise GraphError(f"The node {self.name!r} cannot run {self.of!r} once more: its outputs come from a file.")
        if self.way is None and self.view is None and self.reads is None:
            raise GraphError(f"The node {self.name!r} runs {self.of!r} as it is. Give it a way, a view or reads.")
        for read in as_reads(self.reads):
            read.check(self.name, nodes)
        fed = all(nodes[name].gives_batch for name in self.values_from(nodes))
        if self.view is not None and not fed:
            raise GraphError(f"The node {self.name!r} reads {self.values_from(nodes)[0]!r}, so it has no view.")
        if self.way is not None:
            try:
                self.way.check(network)
            except TapError as error:
                raise TapError(f"The node {self.name!r} cannot run {self.of!r} in its way: {error}") from error

    def taps_in(self, name: str) -> Sequence[Tap]:
        return [tap for read in as_reads(self.reads) for tap in read.taps_in(name)]

    def unit(self, making: Making) -> Unit:
        return VariantUnit(self, making, making.nodes[self.of], self._reads(making.nodes))

    def drawn(self, short: Callable[[object], str]) -> dict[str, Any]:
        way = {} if self.way is None else {"way": short(self.way)}
        return {**drawn_reads(as_reads(self.reads)), "of": list(self.made_of), **way}

    def _reads(self, nodes: Mapping[str, Node]) -> tuple[Read, ...]:
        return as_reads(self.reads) or as_reads(getattr(nodes[self.of], "reads", None))


class VariantUnit(NetworkUnit):
    """A network that another node has, called once more."""

    def __init__(self, node: Variant, making: Making, of: Node, reads: Sequence[Read]) -> None:
        assert of.network is not None
        view = node.view or getattr(of, "view", None)
        super().__init__(node, making, of.network, view=view, reads=reads or None)
        self.way = node.way or Way()
        self.change = self.way.change
        self.moves = of.can_learn()
        self.seeds = True

    def compute(self, now: Now) -> None:
        seed_draws(now.draw + self.stream, now.batch.index.device)
        if self.moves:
            self._call(now)
        else:
            super().compute(now)

    def set_mode(self) -> None:
        """The node that has the network sets its mode."""

    def _call(self, now: Now) -> None:
        with self.way.during(self.module), statistics_kept(self.module):
            super()._call(now)
