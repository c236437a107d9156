"""Examples of another data set as a node: each step has a batch of them, of the size of the stage's batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from lessen.core.data import Examples, View
from lessen.core.errors import GraphError
from lessen.core.settings import named_fields
from lessen.graph.nodes.node import WHOLE, Node
from lessen.graph.nodes.unit import Making, Now, Unit


@named_fields
class OtherData(Node):
    """A batch of another data set, in an order of its own; networks read it: `Network(reads=From("unlabelled"))`.

    What reads it is computed in training only, and not judged on the validation split. Its labels, if it has some, are
    the node `Labels(name=, of="unlabelled")`.

    Args:
        name: What nodes that read it call it.
        examples: To draw from; at least as many as a batch has.
        augment: The view of networks that read it and have none of their own. None: as the examples are.
    """

    name: str
    examples: Examples
    augment: View | None = None

    has_layers: ClassVar[bool] = False
    has_output: ClassVar[bool] = False
    gives_batch: ClassVar[bool] = True

    def reads_batch(self, nodes: Mapping[str, Node]) -> bool:
        return False

    def check(self, nodes: Mapping[str, Node]) -> None:
        if len(self.examples) == 0:
            raise GraphError(f"The node {self.name!r} has no examples. Give some, or leave the node out.")

    def unit(self, making: Making) -> Unit:
        return OtherDataUnit(self)

    def drawn(self, short: Callable[[object], str]) -> dict[str, Any]:
        return {"examples": len(self.examples)}


class OtherDataUnit(Unit):
    """A batch that the engine drew; outside of training, the first examples."""

    kind = "data"
    draws = False

    def __init__(self, node: OtherData) -> None:
        self.name = node.name
        self.examples: Examples = node.examples

    def compute(self, now: Now) -> None:
        if self.name not in now.others:
            first_N = torch.arange(len(now.batch)) % len(self.examples)
            now.others[self.name] = self.examples.fetch(first_N).to(now.batch.index.device)
        now.values[self.name] = {WHOLE: now.others[self.name].inputs}


def data_behind(name: str, nodes: Mapping[str, Node]) -> set[str]:
    """The nodes of other data that a node's values come from; "" is the data of the stage."""
    node = nodes[name]
    found = {""} if node.reads_batch(nodes) else set()
    if node.gives_batch:
        found.add(name)
    return found.union(*(data_behind(other, nodes) for other in node.values_from(nodes)))
