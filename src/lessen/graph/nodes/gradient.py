"""The gradient of a loss inside a network as a node.

Zagoruyko & Komodakis, Paying more attention to attention, ICLR 2017, arXiv:1612.03928, section 3.2 (of the loss on
labels, at the input); Srinivas & Fleuret, Knowledge transfer with Jacobian matching, ICML 2018, arXiv:1803.00443 (of
the largest output).

Shapes: N examples, C outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from lessen.core.errors import GraphError
from lessen.core.settings import named_fields, settings
from lessen.graph.nodes.node import WHOLE, Node, find, is_network, takes_gradient
from lessen.graph.nodes.unit import Making, Now, Unit
from lessen.surgery.taps import Tap, as_tap, tensor_of


@settings
class LargestOutput:
    """The largest output of each example, whose gradient says what the network's answer depends on.

    >>> import torch
    >>> LargestOutput()(torch.tensor([[1.0, 3.0]]), None)
    tensor([3.])
    """

    def __call__(self, output_NC: Tensor, source: Any = None, /) -> Tensor:
        del source
        return output_NC.flatten(1).amax(1)


@named_fields
class Gradient(Node):
    """The gradient of a loss with respect to what a network has at a tap, for each example; of the tap's shape.

    An edge between the gradients of teacher and student matches them; the student then learns by second derivatives.

    Args:
        name: What edges call it.
        of: The network node.
        tap: With respect to what; a string is the path of a module's output, `Tap(side="input")` the input.
        loss: `(output of the network, output of the source) -> (N,)`, as an objective.
        source: The node that the loss compares with, as the labels. None: none.
    """

    name: str
    of: str
    tap: Tap | str
    loss: Callable[[Any, Any], Tensor]
    source: str | None = None

    has_layers: ClassVar[bool] = False
    has_output: ClassVar[bool] = False

    @property
    def made_of(self) -> Sequence[str]:
        return (self.of,) if self.source is None else (self.of, self.source)

    @property
    def learns_with(self) -> Sequence[str]:
        return (self.of,)

    def moved_by(self, nodes: Mapping[str, Node]) -> str:
        return nodes[self.of].moved_by(nodes)

    def check(self, nodes: Mapping[str, Node]) -> None:
        found = find(self.of, nodes, f"the node {self.name!r}", is_network, "a network")
        if found.cache is not None:
            raise GraphError(
                f"The node {self.name!r} needs {self.of!r} computed, but it is cached. Leave the cache out."
            )
        if self.source is not None:
            find(self.source, nodes, f"the node {self.name!r}", lambda node: not node.writes, "a node with a value")

    def taps_in(self, name: str) -> Sequence[Tap]:
        return (as_tap(self.tap), WHOLE) if name == self.of else (WHOLE,) if name == self.source else ()

    def gradients_in(self, name: str) -> Sequence[Tap]:
        return (as_tap(self.tap),) if name == self.of else ()

    def unit(self, making: Making) -> Unit:
        return GradientUnit(self, moves=takes_gradient(self.of, making.nodes))

    def drawn(self, short: Callable[[object], str]) -> dict[str, Any]:
        return {"of": list(self.made_of), "tap": str(as_tap(self.tap)), "loss": short(self.loss)}


class GradientUnit(Unit):
    """A gradient; where it can move something, it has a gradient itself.

    Args:
        node: The node.
        moves: Whether weights are behind it that learn.
    """

    kind = "gradient"
    draws = False

    def __init__(self, node: Gradient, *, moves: bool) -> None:
        self.name, self.node, self.moves = node.name, node, moves

    def compute(self, now: Now) -> None:
        node = self.node
        again = self.moves and torch.is_grad_enabled()
        source = None if node.source is None else now.values[node.source][WHOLE]
        if isinstance(source, Tensor):
            source = source.detach()
        values = now.values[node.of]
        value = tensor_of(values[as_tap(node.tap)])
        with torch.enable_grad():
            loss_N = node.loss(values[WHOLE], source)
            found = None
            if value.requires_grad and loss_N.requires_grad:
                (found,) = torch.autograd.grad(
                    loss_N.sum(), value, create_graph=again, retain_graph=True, allow_unused=True
                )
        if found is None:
            raise GraphError(
                f"The node {self.name!r} finds no gradient at {str(as_tap(node.tap))!r} of {node.of!r}: its loss does "
                "not depend on it, or no floating-point numbers lead there. Choose another tap."
            )
        now.values[self.name] = {WHOLE: found if again else found.detach()}
