"""What a network is called with where that is not the batch: another node's value, or one of the inputs by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lessen.core.batch import Inputs, map_inputs, named_values
from lessen.core.errors import DataError, GraphError, did_you_mean
from lessen.core.settings import settings
from lessen.graph.nodes.node import Node, find, takes_gradient
from lessen.surgery.taps import Tap, as_tap, tensor_of

if TYPE_CHECKING:
    from lessen.graph.nodes.unit import Now

Look = Callable[[str | int | None], Inputs]
"""The inputs of the batch (None), or the one of this name, through the view of the node that reads."""


class Read:
    """One value that a network is called with. Several are positional arguments, in their order."""

    @property
    def nodes(self) -> Sequence[str]:
        """The nodes that are read."""
        return ()

    @property
    def moves(self) -> Sequence[str]:
        """Those of them that the reader's gradient flows to."""
        return ()

    def check(self, name: str, nodes: Mapping[str, Node]) -> None:
        """Check that the node `name` can read this.

        Raises:
            GraphError: naming the node, and what to do.
        """

    def taps_in(self, name: str) -> Sequence[Tap]:
        """Where the node of that name is read."""
        return ()

    def value(self, now: Now, look: Look) -> Inputs:
        """The value of this batch."""
        raise NotImplementedError


@settings
class From(Read):
    """The value at a tap of another node, as `reads=From("student", "layer3")`.

    Args:
        node: The node that is read; it is computed first.
        tap: Where; a string is the path of a module's output.
        to_node: Whether the reader's gradient flows on to that node. If not, it is cut off.
    """

    node: str
    tap: Tap | str = Tap()
    to_node: bool = False

    @property
    def nodes(self) -> Sequence[str]:
        return (self.node,)

    @property
    def moves(self) -> Sequence[str]:
        return (self.node,) if self.to_node else ()

    def check(self, name: str, nodes: Mapping[str, Node]) -> None:
        who = f"the node {name!r}"
        read = find(self.node, nodes, who, lambda node: not node.writes, "a node with a value of its own")
        if not read.has_layers and as_tap(self.tap) != Tap():
            raise GraphError(f"The node {name!r} reads {str(self)!r}, but {self.node!r} has no layers. Leave it out.")
        if self.to_node and not takes_gradient(self.node, nodes):
            raise GraphError(
                f"The node {name!r} sends gradient to {self.node!r}, which cannot learn. Leave to_node out."
            )

    def taps_in(self, name: str) -> Sequence[Tap]:
        return (as_tap(self.tap),) if name == self.node else ()

    def value(self, now: Now, look: Look) -> Inputs:
        value: Inputs = now.values[self.node][as_tap(self.tap)]
        if as_tap(self.tap) != Tap():
            value = tensor_of(value)
        return value if self.to_node else map_inputs(value, Tensor.detach)

    def __str__(self) -> str:
        return f"{self.node}.{as_tap(self.tap)}".rstrip(".")


@settings
class Input(Read):
    """One of several inputs of the batch: by name of a mapping, by number of a tuple.

    Args:
        name: Which.
    """

    name: str | int

    def value(self, now: Now, look: Look) -> Inputs:
        return look(self.name)

    def __str__(self) -> str:
        return f"input {self.name}"


def input_of(inputs: Inputs, name: str | int) -> Tensor:
    """One of several inputs.

    Raises:
        DataError: there is none of that name.
    """
    if isinstance(inputs, dict) and name in inputs:
        return inputs[str(name)]
    if isinstance(inputs, tuple) and isinstance(name, int) and 0 <= name < len(inputs):
        return inputs[name]
    names = [found for found, _ in named_values(inputs)]
    said = did_you_mean(str(name), names) if isinstance(inputs, dict) else f"the data gives {', '.join(names)}."
    raise DataError(f"There is no input {name!r} in the batch: {said}")


def several(given: Sequence[Inputs], name: str) -> tuple[Tensor, ...]:
    """Several values as positional arguments.

    Raises:
        DataError: one of them is several tensors itself; the text names the node `name`.
    """
    tensors = tuple(value for value in given if isinstance(value, Tensor))
    if len(tensors) != len(given):
        raise DataError(f"The node {name!r} reads several values, so each must be one tensor. Name it with Input(...).")
    return tensors


def as_reads(given: Read | Sequence[Read] | None) -> tuple[Read, ...]:
    """What a node reads, as a tuple; empty: the inputs of the batch."""
    if given is None:
        return ()
    return (given,) if isinstance(given, Read) else tuple(given)


def drawn_reads(reads: Sequence[Read]) -> dict[str, Any]:
    """What a drawing says of reads."""
    if not reads:
        return {}
    return {"of": [name for read in reads for name in read.nodes], "reads": [str(read) for read in reads]}
