"""A kind of node: another node's output with noise (Sau & Balasubramanian 2016, arXiv:1610.09650, section 3)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lessen.core.settings import named_fields
from lessen.graph import Node
from lessen.graph.nodes import WHOLE, Making, Now, Unit, find
from lessen.surgery.taps import Tap


@named_fields
class Noisy(Node):
    """The output of another node with normal noise, drawn anew for each batch; it never learns.

    Args:
        name: What edges call it.
        of: The node whose output it is.
        noise: The standard deviation of the noise, as a share of that of the output.
    """

    name: str
    of: str
    noise: float = 0.1

    @property
    def made_of(self) -> Sequence[str]:
        return (self.of,)

    def check(self, nodes: Mapping[str, Node]) -> None:
        find(self.of, nodes, f"the node {self.name!r}", lambda node: node.has_output, "an output")

    def taps_in(self, name: str) -> Sequence[Tap]:
        return (WHOLE,) if name == self.of else ()

    def unit(self, making: Making) -> Unit:
        return NoisyUnit(self)

    def drawn(self, short: Callable[[object], str]) -> dict[str, Any]:
        return {"of": [self.of], "noise": self.noise}


class NoisyUnit(Unit):
    """Computes it, once for each batch in which an edge needs it."""

    kind = "noisy"

    def __init__(self, node: Noisy) -> None:
        self.name, self.of, self.noise = node.name, node.of, node.noise

    def compute(self, now: Now) -> None:
        output = now.values[self.of][WHOLE].detach()
        # The engine seeds torch before each step, so a run that is resumed draws the same.
        noise = torch.randn_like(output) * output.std() * self.noise if now.training else 0
        now.values[self.name] = {WHOLE: output + noise}
