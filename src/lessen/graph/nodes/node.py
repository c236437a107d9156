"""What a graph asks of a node, whatever its kind: one file for each kind, in this folder.

A node is settings (`named_fields`) that derive from `Node`. In order, the graph

1. asks it to `check` itself among the other nodes, before anything runs;
2. makes its `unit`, once the nodes that it is `made_of` have theirs;
3. calls the unit's `make_ready` with a few examples, in eval mode and without gradient, and puts all buffers back;
4. calls `compute` for every batch in which an edge needs the node, after the nodes that it is made of; for a node that
   `writes` it calls `write` before that;
5. calls the unit's `before_step` and `after_step` around each optimizer step and `after_epoch` after each pass over the
   data, and `close` at the end of the stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from lessen.core.errors import GraphError, did_you_mean
from lessen.graph.cache import Cache
from lessen.optim.optimizer import Optimizer
from lessen.optim.schedule import Schedule
from lessen.sparsify.contract import Sparsify
from lessen.surgery.taps import Tap

if TYPE_CHECKING:
    from lessen.graph.nodes.unit import Making, Unit

WHOLE = Tap()


class Node:
    """A kind of node. Every attribute and method has a default, for a node that gives a value and never learns.

    Attributes:
        name: What edges call it.
        optimizer: How it moves. None: as the node that moves it, or the stage, says.
        schedule: Of its learning rate. None: as the stage says.
        cache: Keep what it gives on disk. None: compute it each time.
        sparsify: How its weights become sparse while it learns. None: as the stage says.
        has_layers: Whether an edge may tap the inside of it.
        has_output: Whether it gives an output of a network; labels do not.
        has_head: Whether its output comes from a head of its own, and not from the network that it belongs to.
        writes: Whether it makes the batch, or a part of it, before anything is computed.
        takes_batch: Whether its network is called with the inputs of the batch.
        gives_batch: Whether it is a batch of examples itself.
    """

    name: str
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None
    cache: Cache | None = None
    sparsify: Sparsify | None = None
    has_layers: ClassVar[bool] = True
    has_output: ClassVar[bool] = True
    has_head: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    gives_batch: ClassVar[bool] = False

    @property
    def takes_batch(self) -> bool:
        return True

    @property
    def network(self) -> nn.Module | None:
        """The network that it was given to be, if it is one."""
        return None

    @property
    def parts(self) -> Sequence[nn.Module]:
        """All modules that it was given."""
        return ()

    @property
    def made_of(self) -> Sequence[str]:
        """The names of the nodes that must be computed before it."""
        return ()

    @property
    def members(self) -> Sequence[str]:
        """Those of them whose outputs its own output is made of."""
        return ()

    @property
    def learns_with(self) -> Sequence[str]:
        """Those of them that gradient which arrives here moves as well."""
        return ()

    def can_learn(self) -> bool:
        """Whether weights of the node itself move when an edge arrives."""
        return False

    def needs(self, nodes: Mapping[str, Node]) -> Sequence[str]:
        """`made_of`, for a kind that must look at other nodes to know."""
        return self.made_of

    def values_from(self, nodes: Mapping[str, Node]) -> Sequence[str]:
        """Those of the nodes that it needs whose values its own are made of."""
        return self.needs(nodes)

    def reads_batch(self, nodes: Mapping[str, Node]) -> bool:
        """Whether it reads the batch of the stage itself, and not through nodes that it needs."""
        return not self.needs(nodes)

    def moved_by(self, nodes: Mapping[str, Node]) -> str:
        """The name of the node whose optimizer moves what learns at this one."""
        return self.name

    def check(self, nodes: Mapping[str, Node]) -> None:
        """Check its settings, and the nodes that it names.

        Raises:
            GraphError: naming the node, and what to do.
        """

    def check_arriving(self, edge: str, nodes: Mapping[str, Node]) -> None:
        """Check that an edge can arrive here.

        Raises:
            GraphError: naming the edge, and what to do.
        """

    def taps_in(self, name: str) -> Sequence[Tap]:
        """Where it reads another node."""
        return ()

    def gradients_in(self, name: str) -> Sequence[Tap]:
        """Those of them with respect to whose values it takes a gradient."""
        return ()

    def unit(self, making: Making) -> Unit:
        """What computes it."""
        raise NotImplementedError(f"{type(self).__name__} has no unit.")

    @property
    def plays(self) -> tuple[str, int] | None:
        """The role whose network it will be, and which of several; None: it needs none."""
        return None

    def played_by(self, module: nn.Module) -> Node:
        """The node with the network of its role."""
        raise NotImplementedError(f"{type(self).__name__} plays no role.")

    def drawn(self, short: Callable[[object], str]) -> dict[str, Any]:
        """What a drawing says of it in addition to its name and kind, as JSON data.

        Args:
            short: Makes one line of any settings object.
        """
        return {}


def find(
    name: str,
    nodes: Mapping[str, Node],
    who: str,
    fits: Callable[[Node], bool] = lambda node: True,
    what: str = "a node",
) -> Node:
    """The node of a name.

    Args:
        name: The name.
        nodes: All nodes.
        who: Who names it, for errors.
        fits: What it must be.
        what: The same in words.

    Raises:
        GraphError: there is none, or it is of a kind that does not fit.
    """
    if name not in nodes:
        raise GraphError(f"There is no node {name!r}, which {who} names: {did_you_mean(name, nodes)}")
    if not fits(nodes[name]):
        raise GraphError(f"{who[0].upper()}{who[1:]} names {name!r}, a {type(nodes[name]).__name__}; it needs {what}.")
    return nodes[name]


def is_network(node: Node) -> bool:
    """Whether a node is a network that was given."""
    return node.network is not None


def reached(name: str, nodes: Mapping[str, Node]) -> list[str]:
    """A node, and all that gradient which arrives at it flows on to."""
    found: list[str] = []

    def follow(name: str) -> None:
        if name not in found:
            found.append(name)
            for other in nodes[name].learns_with if name in nodes else ():
                follow(other)

    follow(name)
    return [name for name in found if name in nodes]


def takes_gradient(name: str, nodes: Mapping[str, Node]) -> bool:
    """Whether weights move when an edge arrives at a node: its own, or those of a node that it reads."""
    return any(nodes[other].can_learn() for other in reached(name, nodes))
